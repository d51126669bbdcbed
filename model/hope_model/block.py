"""One block: φ, the CMS levels, the slow MLP (E22)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_model.aggregations import AGGREGATIONS
from hope_model.cms import AssociativeLevel
from hope_model.config import HopeConfig
from hope_model.norms import RMSNorm
from hope_model.rules import RULES
from hope_model.rules.base import MemoryRule
from hope_model.state import State, TensorSpec

Applied = dict[str, Tensor]
"""By level, which writes were applied: ``[B]`` of one token (0 also where none was due), ``[B, n]`` bool of
the ``n`` whose time came in a run.
"""


class SlowMLP(nn.Module):
    """The level that never changes while serving: SwiGLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 2 * hidden, bias=False)
        self.contract = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.expand(x).chunk(2, dim=-1)
        result: Tensor = self.contract(F.silu(gate) * value)
        return result


class HopeBlock(nn.Module):
    """``x <- x + φ(x)``; ``x <- Agg(x, levels)``; ``x <- x + MLP(x)``; state in, state out."""

    def __init__(self, config: HopeConfig) -> None:
        super().__init__()
        self.phi_norm = RMSNorm(config.width)
        self.phi: MemoryRule = RULES[config.rule](config)
        self.levels = nn.ModuleList(AssociativeLevel(config, level) for level in config.levels)
        self.aggregation = (
            AGGREGATIONS[config.aggregation](config.width, len(config.levels)) if config.levels else None
        )
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = SlowMLP(config.width, config.mlp_width)

    def spec(self) -> tuple[TensorSpec, ...]:
        """State tensors of this block, names prefixed by ``phi.`` or the level's name."""
        parts = [("phi", self.phi.spec()), *((level.level.name, level.spec()) for level in self._cms())]
        return tuple(
            TensorSpec(f"{prefix}.{spec.name}", spec.level, spec.shape, spec.dtype)
            for prefix, specs in parts
            for spec in specs
        )

    def step(
        self,
        x: Tensor,
        state: State,
        position: Tensor,
        learn: Tensor | None = None,
        learns: Tensor | None = None,
    ) -> tuple[Tensor, State, Applied]:
        """One token a row: ``x [B, D]``, ``position [B]``; rows may stand anywhere.

        learn: ``[B]`` bool, tokens that may teach the CMS. learns: ``[B]`` bool, rows whose φ is written.
        None stands for all.
        """
        return self._run(
            x,
            state,
            lambda h, own: self.phi.held_step(h, own, position, learns),
            lambda level, h, own: level.step(h, own, position, learn),
        )

    def step_rows(
        self,
        x: Tensor,
        slab: State,
        slots: Tensor,
        position: Tensor,
        learn: Tensor | None = None,
        learns: Tensor | None = None,
    ) -> tuple[Tensor, Applied]:
        """:meth:`step` on rows ``slots [B]`` of a slab, in place."""

        def phi(h: Tensor, own: State) -> tuple[Tensor, State, Applied]:
            y, applied = self.phi.held_step_rows(h, own, slots, position, learns)
            return y, {}, applied

        def read(level: AssociativeLevel, h: Tensor, own: State) -> tuple[Tensor, State, Tensor]:
            y, applied = level.step_rows(h, own, slots, position, learn)
            return y, {}, applied

        x, _, applied = self._run(x, slab, phi, read)
        return x, applied

    def forward(
        self,
        x: Tensor,
        state: State,
        phase: int,
        learn: Tensor | None = None,
        learns: Tensor | None = None,
    ) -> tuple[Tensor, State, Applied]:
        """A run of tokens: ``x [B, T, D]``, ``learn [B, T]``, rows in lockstep at ``phase``."""
        return self._run(
            x,
            state,
            lambda h, own: self.phi.held_forward(h, own, phase, learns),
            lambda level, h, own: level(h, own, phase, learn),
        )

    def _run(
        self,
        x: Tensor,
        state: State,
        phi: Callable[[Tensor, State], tuple[Tensor, State, Applied]],
        call: Callable[[AssociativeLevel, Tensor, State], tuple[Tensor, State, Tensor]],
    ) -> tuple[Tensor, State, Applied]:
        after: State = {}
        y, own, applied = phi(self.phi_norm(x), _take(state, "phi"))
        after.update(_give(own, "phi"))
        x = x + y

        def reader(level: AssociativeLevel) -> Callable[[Tensor], Tensor]:
            def read(h: Tensor) -> Tensor:
                name = level.level.name
                reading, own, wrote = call(level, h, _take(state, name))
                after.update(_give(own, name))
                applied[name] = wrote
                return reading

            return read

        if self.aggregation is not None:
            x = self.aggregation(x, [reader(level) for level in self._cms()])
        return x + self.mlp(self.mlp_norm(x)), after, applied

    def drift(self, state: State) -> Applied:
        """Per learning level the squared norms ``[B]`` learned and ``[]`` initial, stacked as ``[2, B]``."""
        moved: Applied = {}
        initial = self.initial_norms()
        for level, names in self.learned_tensors().items():
            learned = torch.stack([state[name].flatten(1).square().sum(1) for name in names]).sum(0)
            moved[level] = torch.stack((learned, initial[level].square().expand_as(learned)))
        return moved

    def learned_tensors(self) -> dict[str, tuple[str, ...]]:
        """Per learning level, the tensors of this block's state that hold what it has learned."""
        phi = {
            level: tuple(f"phi.{name}" for name in names) for level, names in self.phi.drift_tensors().items()
        }
        return phi | {cms.level.name: (f"{cms.level.name}.delta",) for cms in self._cms()}

    def initial_norms(self) -> dict[str, Tensor]:
        """Per learning level, the norm of the memory that a session starts from, ``[]``."""
        return self.phi.reference_norms() | {cms.level.name: cms.reference_norm() for cms in self._cms()}

    def _cms(self) -> Iterator[AssociativeLevel]:
        for level in self.levels:
            assert isinstance(level, AssociativeLevel)
            yield level


def _take(state: State, prefix: str) -> State:
    start = len(prefix) + 1
    return {name[start:]: tensor for name, tensor in state.items() if name.startswith(prefix + ".")}


def _give(state: State, prefix: str) -> State:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}
