"""What a φ rule is: a layer that reads its memory and rewrites it with every token."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from hope_model.config import HopeConfig
from hope_model.state import LevelSpec, State, TensorSpec, gather_state, scatter_state


class MemoryRule(nn.Module, ABC):
    """One block's self-modifying memory.

    State is passed in and returned; the module holds slow weights only. ``step`` takes rows at different
    positions; ``forward`` takes rows at the same position modulo :attr:`phase_period` and any number of
    tokens, and equals that many steps. Both report which writes were applied, by level: ``[B]`` of one
    token, 0 also where none was due; ``[B, n]`` bool of the ``n`` that were due in a run. They refuse a
    write that is not finite, and leave the memory of a row alone where ``learns [B]`` (bool, None: all do) is
    false.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__()
        self.config = config

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
    def step(
        self, x: Tensor, state: State, position: Tensor, learns: Tensor | None = None
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """``x [B, D]``, ``position [B]`` tokens read before this one -> ``(y [B, D], state', applied)``."""

    def step_rows(
        self, x: Tensor, slab: State, slots: Tensor, position: Tensor, learns: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`step` on rows ``slots [B]`` of a slab, in place; a padded row, -1, reads nothing of use."""
        y, after, applied = self.step(x, gather_state(slab, slots), position, learns)
        scatter_state(slab, slots, after)
        return y, applied

    @abstractmethod
    def forward(
        self, x: Tensor, state: State, phase: int, learns: Tensor | None = None
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """``x [B, T, D]``, ``phase`` = position modulo the period -> ``(y [B, T, D], state', applied)``."""

    @abstractmethod
    def reference_norms(self) -> dict[str, Tensor]:
        """``{level: scalar}`` norm of the initial memory, the denominator of the drift ratio."""

    @abstractmethod
    def drift_tensors(self) -> dict[str, tuple[str, ...]]:
        """``{level: names}`` of the state tensors that hold what the level has learned."""
