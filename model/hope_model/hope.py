"""The native Hope language model: embedding, blocks of (φ, CMS, slow MLP), head."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_model.block import Applied, HopeBlock
from hope_model.cms import AssociativeLevel
from hope_model.config import HopeConfig
from hope_model.errors import StateError
from hope_model.norms import RMSNorm
from hope_model.state import (
    LevelSpec,
    State,
    StateSpec,
    TensorSpec,
    gather_state,
    scatter_state,
    select_rows,
)
from hope_model.streaks import (
    COUNTER_NAMES,
    Outcome,
    all_applied,
    as_events,
    counted,
    counted_step,
    counter_specs,
    learning_rows,
)


class Hope(nn.Module):
    """Slow weights only; a session's state is passed in and a new one returned.

    All entry points accept rows at different positions and agree with one another for any split of tokens.
    A row whose state is frozen is read as ever and not written.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(HopeBlock(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.state_spec = self._spec()
        self._initialise()

    def initial_state(self, rows: int) -> State:
        """The state of ``rows`` sessions that have read nothing, in the weights' type and on their device."""
        weight = self.embedding.weight
        return self.state_spec.zeros(rows, device=weight.device, dtype=weight.dtype)

    def step(self, tokens: Tensor, state: State, learn: Tensor | None = None) -> tuple[Tensor, State]:
        """One token a row.

        Args:
            tokens: ``[B]`` int64.
            state: rows ``[B, ...]``.
            learn: bool of ``tokens``' shape, here and below: which of them may teach the CMS, None for all
                (E29).

        Returns:
            ``(logits [B, vocab], state')``.
        """
        if tokens.is_cuda and not torch.is_grad_enabled():
            after = {name: tensor.clone() for name, tensor in state.items()}
            slots = torch.arange(len(tokens), device=tokens.device)
            return self.step_rows(tokens, after, slots, learn), after
        x, position, learns = self._embed(tokens), state["position"], learning_rows(state)
        learn, after, applied = _both(tokens, learn, learns), {}, []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, HopeBlock)
            x, own, wrote = block.step(x, _layer(state, index), position, learn, learns)
            after.update({f"layers.{index}.{name}": tensor for name, tensor in own.items()})
            applied.append(wrote)
        return self._head(x), self._counted_step(state, applied, learn) | after

    def step_rows(self, tokens: Tensor, slab: State, slots: Tensor, learn: Tensor | None = None) -> Tensor:
        """:meth:`step` on rows of a slab, in place: nothing waits for the device, no state is copied.

        Args:
            tokens: ``[B]`` int64.
            slab: states ``[S, ...]``, dense.
            slots: ``[B]`` int64, distinct; -1 for a padded row, whose logits are of no use.

        Returns:
            logits ``[B, vocab]``.
        """
        x, before = self._embed(tokens), gather_state(_counters(slab), slots)
        learns, applied = learning_rows(before, wait=False), []
        learn = _both(tokens, learn, learns)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, HopeBlock)
            x, wrote = block.step_rows(x, _layer(slab, index), slots, before["position"], learn, learns)
            applied.append(wrote)
        scatter_state(slab, slots, self._counted_step(before, applied, learn))
        return self._head(x)

    def forward(
        self, tokens: Tensor, state: State, learn: Tensor | None = None, phase: int | None = None
    ) -> tuple[Tensor, State]:
        """A run of tokens: ``tokens [B, T]`` int64 -> ``(logits [B, T, vocab], state')``; any ``T >= 1``.

        phase: as :meth:`hidden` has it.
        """
        hidden, state = self.hidden(tokens, state, learn, phase)
        return self._head(hidden), state

    def prefill(self, tokens: Tensor, state: State, learn: Tensor | None = None) -> tuple[Tensor, State]:
        """:meth:`forward` with the last token's logits: ``[B, T]`` -> ``(logits [B, vocab], state')``."""
        hidden, state = self.hidden(tokens, state, learn)
        return self._head(hidden[:, -1]), state

    def block_pass(self, tokens: Tensor, state: State, learn: Tensor | None = None) -> tuple[Tensor, State]:
        """From a boundary to the next: ``tokens [1, block]``; the only way to reach a boundary while serving.

        One canonical shape, so that the result is a pure function of the weights, the state and the tokens.

        Raises:
            StateError: another shape, or a state that is not at a boundary.
        """
        if tokens.shape != (1, self.config.block) or int(state["position"][0]) % self.config.block:
            raise StateError(
                f"block pass: expected tokens [1, {self.config.block}] at a boundary, "
                f"found {list(tokens.shape)} at position {int(state['position'][0])}"
            )
        return self.prefill(tokens, state, learn)

    def hidden(
        self, tokens: Tensor, state: State, learn: Tensor | None = None, phase: int | None = None
    ) -> tuple[Tensor, State]:
        """The last block's output before norm and head: ``[B, T]`` -> ``(x [B, T, D], state')``.

        phase: tokens read before modulo ``phase_period``, from who knows that all rows stand there and learn;
            None asks the state, for which a GPU is waited for.
        """
        if tokens.dim() != 2 or tokens.shape[1] == 0:
            raise StateError(f"tokens: expected [B, T] with T >= 1, found {list(tokens.shape)}")
        if phase is not None:
            return self._lockstep(tokens, state, learn, None, phase)
        phases = state["position"] % self.phase_period
        if bool((phases == phases[0]).all()):
            return self._lockstep(tokens, state, learn, learning_rows(state), int(phases[0]))
        x = self.embedding.weight.new_empty(*tokens.shape, self.config.width)
        after = {name: torch.empty_like(tensor) for name, tensor in state.items()}
        for phase in phases.unique():
            rows = (phases == phase).nonzero()[:, 0]
            flags, before = None if learn is None else learn[rows], select_rows(state, rows)
            part, own = self._lockstep(tokens[rows], before, flags, learning_rows(before), int(phase))
            x = x.index_copy(0, rows, part)
            after = {name: tensor.index_copy(0, rows, own[name]) for name, tensor in after.items()}
        return x, after

    def drift(self, state: State) -> dict[str, Tensor]:
        """Per learning level ``||learned|| / ||initial||`` over all blocks, ``[B]``."""
        total: dict[str, Tensor] = {}
        for index, block in enumerate(self.blocks):
            assert isinstance(block, HopeBlock)
            for level, norms in block.drift(_layer(state, index)).items():
                total[level] = total[level] + norms if level in total else norms
        return {level: (norms[0] / norms[1]).sqrt() for level, norms in total.items()}

    @property
    def phase_period(self) -> int:
        """Tokens after which every schedule of the model repeats."""
        block = self.blocks[0]
        assert isinstance(block, HopeBlock)
        return math.lcm(block.phi.phase_period, *(level.period for level in self.config.levels))

    def logits(self, hidden: Tensor) -> Tensor:
        """Norm and tied head: ``[..., D]`` -> ``[..., vocab]``."""
        return self._head(hidden)

    def _lockstep(
        self, tokens: Tensor, state: State, learn: Tensor | None, learns: Tensor | None, phase: int
    ) -> tuple[Tensor, State]:
        x = self._embed(tokens)
        learn, after, applied = _both(tokens, learn, learns), {}, []
        for index, block in enumerate(self.blocks):
            x, own, wrote = block(x, _layer(state, index), phase, learn, learns)
            after.update({f"layers.{index}.{name}": tensor for name, tensor in own.items()})
            applied.append(wrote)
        outcomes = []
        for level in self.state_spec.learning_levels:
            assert level.period is not None
            end = phase + tokens.shape[1]
            number = end // level.period - phase // level.period
            done = all_applied(as_events(wrote[level.name], number) for wrote in applied)
            first = level.period - phase % level.period - 1
            ends = None if learn is None else learn[:, first :: level.period]
            outcomes.append(Outcome(done, self._due(level.name, torch.ones_like(done), ends)))
        counters = counted(state, outcomes, tokens=tokens.shape[1], block=self.config.block)
        return x, counters | after

    def _counted_step(self, before: State, applied: list[Applied], learn: Tensor | None) -> State:
        """The counters after one token, at which some rows' levels are due; ``learn [B]``."""
        names = [level.name for level in self.state_spec.learning_levels]
        ends = [
            self._due(level.name, (before["position"] + 1) % level.period == 0, learn)
            for level in self.state_spec.learning_levels
            if level.period is not None
        ]
        done = all_applied(torch.stack([wrote[name] for name in names], dim=1) for wrote in applied)
        return counted_step(before, Outcome(done, torch.stack(ends, dim=1)), block=self.config.block)

    def _due(self, level: str, ends: Tensor, learn: Tensor | None) -> Tensor:
        """Where a period ends: a CMS level's has no write if it ends with a token that may not teach."""
        if learn is None or all(own.name != level for own in self.config.levels):
            return ends
        return ends & learn

    def _embed(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embedding(tokens) * math.sqrt(self.config.width)
        return x

    def _head(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.embedding.weight)

    def _spec(self) -> StateSpec:
        block = self.blocks[0]
        assert isinstance(block, HopeBlock)
        cms = tuple(LevelSpec(level.name, level.period) for level in self.config.levels)
        levels = (*block.phi.levels(self.config), *cms, LevelSpec("slow", None))
        tensors = [*counter_specs(len(levels) - 1)]
        for index, layer in enumerate(self.blocks):
            assert isinstance(layer, HopeBlock)
            tensors += [
                TensorSpec(f"layers.{index}.{spec.name}", spec.level, spec.shape, spec.dtype)
                for spec in layer.spec()
            ]
        return StateSpec(tuple(tensors), levels)

    def _initialise(self) -> None:
        """Small embeddings, as the head is tied to them; projections into the residual shrink with depth."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                shrink = (2 * self.config.layers) ** -0.5 if name.endswith(("output", "contract")) else 1.0
                nn.init.normal_(module.weight, std=shrink * module.in_features**-0.5)
        for module in self.modules():
            if isinstance(module, AssociativeLevel):
                module.align()


def _counters(state: State) -> State:
    return {name: state[name] for name in COUNTER_NAMES}


def _both(tokens: Tensor, learn: Tensor | None, learns: Tensor | None) -> Tensor | None:
    """Which of ``tokens`` may teach, in rows that learn, ``[B]``; None for all."""
    if learns is None:
        return learn
    rows = learns.view(-1, *(1,) * (tokens.dim() - 1)).expand_as(tokens)
    return rows if learn is None else rows & learn


def _layer(state: State, index: int) -> State:
    prefix = f"layers.{index}."
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
