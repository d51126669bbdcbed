"""What a φ rule is: a layer that reads its memory and rewrites it with every token."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hope_model.config import HopeConfig
from hope_model.guards import keep_rows
from hope_model.rules.options import Option, chosen_options
from hope_model.state import LevelSpec, State, TensorSpec, gather_state, scatter_state


class MemoryRule(nn.Module, ABC):
    """One block's self-modifying memory.

    State is passed in and returned; the module holds slow weights only. ``step`` takes rows at different
    positions; ``forward`` takes rows at the same position modulo :attr:`phase_period` and any number of
    tokens, and equals that many steps. Both report which writes were applied, ``{level: [B] int64}``, and
    refuse a write that is not finite; ``forward`` may say it of each that was due, ``[B, n]`` bool, which
    tells when the refused ones came: else they count as the last.
    """

    CONTEXT: ClassVar[tuple[str, ...]] = ("window", "last_", "seen", "keys-", "values-")
    """How names of state tensors begin that hold what was read last: they move on in a row that does not
    learn.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {}
    """Settings that this rule alone has, by name."""

    def __init__(self, config: HopeConfig) -> None:
        """Raises ConfigError for options, or sizes, that the rule cannot work with."""
        super().__init__()
        self.config = config
        self.options = chosen_options(config.rule, self.OPTIONS, config.rule_options)

    @classmethod
    @abstractmethod
    def levels(cls, config: HopeConfig) -> tuple[LevelSpec, ...]:
        """The levels this rule writes, fastest first."""

    @property
    @abstractmethod
    def phase_period(self) -> int:
        """Tokens after which the rule's schedule repeats."""

    @abstractmethod
    def spec(self) -> tuple[TensorSpec, ...]:
        """The layer's state tensors; all start at zero, the initial memory is a slow weight."""

    @abstractmethod
    def step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State, dict[str, Tensor]]:
        """``x [B, D]``, ``position [B]`` tokens read before this one -> ``(y [B, D], state', applied)``."""

    def step_rows(
        self, x: Tensor, slab: State, slots: Tensor, position: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`step` on rows ``slots [B]`` of a slab, in place; a padded row, -1, reads nothing of use."""
        y, after, applied = self.step(x, gather_state(slab, slots), position)
        scatter_state(slab, slots, after)
        return y, applied

    @abstractmethod
    def forward(self, x: Tensor, state: State, phase: int) -> tuple[Tensor, State, dict[str, Tensor]]:
        """``x [B, T, D]``, ``phase`` = position modulo the period -> ``(y [B, T, D], state', applied)``."""

    def held_step(
        self, x: Tensor, state: State, position: Tensor, learns: Tensor | None
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """:meth:`step` that leaves the memory of rows alone where ``learns [B]`` (bool, None for all) is
        false.
        """
        if learns is None:
            return self.step(x, state, position)
        y, after, applied = self.step(x, state, position)
        return y, self._held(state, after, learns), applied

    def held_step_rows(
        self, x: Tensor, slab: State, slots: Tensor, position: Tensor, learns: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`step_rows` as :meth:`held_step` has it."""
        if learns is None:
            return self.step_rows(x, slab, slots, position)
        y, after, applied = self.held_step(x, gather_state(slab, slots), position, learns)
        scatter_state(slab, slots, after)
        return y, applied

    def held_forward(
        self, x: Tensor, state: State, phase: int, learns: Tensor | None
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """:meth:`forward` as :meth:`held_step` has it: rows that do not learn are read token by token."""
        if learns is None:
            y, after, applied = self(x, state, phase)
            return y, after, applied
        y, after, applied = self.forward(x, state, phase)
        held, readings = state, []
        for place, token in enumerate(x.unbind(1)):
            position = torch.full((len(x),), phase + place, device=x.device)
            reading, held, _ = self.held_step(token, held, position, torch.zeros_like(learns))
            readings.append(reading)
        rows = {name: keep_rows(learns, tensor, held[name]) for name, tensor in after.items()}
        return keep_rows(learns, y, torch.stack(readings, dim=1)), rows, applied

    def _held(self, before: State, after: State, learns: Tensor) -> State:
        return {
            name: tensor if name.startswith(self.CONTEXT) else keep_rows(learns, tensor, before[name])
            for name, tensor in after.items()
        }

    @abstractmethod
    def reference_norms(self) -> dict[str, Tensor]:
        """``{level: scalar}`` norm of the initial memory, the denominator of the drift ratio."""

    def norm_of_units(self, count: int) -> Tensor:
        """Norm, a scalar, of ``count`` unit writes together: for memories that start at zero."""
        return next(self.parameters()).new_full((), count**0.5)

    @abstractmethod
    def drift_tensors(self) -> dict[str, tuple[str, ...]]:
        """``{level: names}`` of the state tensors that hold what the level has learned."""
