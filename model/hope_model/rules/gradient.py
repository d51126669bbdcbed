"""The family of memories that take gradient steps on their own objective (E39, E40).

All gradients of a chunk are taken at the memory as the chunk found it; each token then reads the memory as
the chunk has left it so far. A rule of the family says what its networks are and what they are pulled to.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_kernels.matrix_memory import ChunkMix
from hope_model.config import HopeConfig
from hope_model.guards import bound_norm, finite_rows, full_precision, keep_rows, l2_normalize
from hope_model.rules.base import MemoryRule
from hope_model.rules.gradient_memory import GradientMemory, MemoryForm
from hope_model.rules.heads import HeadInputs, HeadOutput, HeadRate
from hope_model.rules.objectives import squared
from hope_model.schedule import run_lengths
from hope_model.state import LevelSpec, State, TensorSpec

MAX_NORM = 8.0
"""Of what a matrix of a head has learned."""


@dataclass(frozen=True)
class Gates:
    """Per head and token, ``[B, H, T]``: step, logarithms of retention and momentum (None for none)."""

    rate: Tensor
    log_alpha: Tensor
    log_beta: Tensor | None = None

    def split(self, sizes: list[int]) -> "list[Gates]":
        betas = [None] * len(sizes) if self.log_beta is None else self.log_beta.split(sizes, dim=2)
        parts = zip(self.rate.split(sizes, dim=2), self.log_alpha.split(sizes, dim=2), betas, strict=True)
        return [Gates(*part) for part in parts]


class GradientRule(MemoryRule):
    """One network per head, pulled from its key's reading to its value, read after the token's write."""

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self._frozen = self.frozen_reads(config)
        self.inputs = HeadInputs(config)
        self.memory = GradientMemory(config.heads, self.form(), momentum=self.with_momentum())
        self.output = HeadOutput(config, gated=True)
        self.rate = HeadRate(config, highest=2.0 / config.chunk)

    @abstractmethod
    def form(self) -> MemoryForm:
        """The networks."""

    @abstractmethod
    def gates(self, x: Tensor) -> Gates:
        """``x [B, T, D]`` -> how each token is learned."""

    @classmethod
    def frozen_reads(cls, config: HopeConfig) -> bool:
        """Whether tokens read the memory as their chunk found it: where a write is no sum of outer
        products.
        """
        return False

    def objective(self, reading: Tensor, target: Tensor) -> Tensor:
        """The gradient of the objective with respect to the memory's reading."""
        return squared(reading, target)

    def with_momentum(self) -> bool:
        """Whether gradients go through a momentum, which is state too."""
        return False

    def target(self, k: Tensor, v: Tensor) -> Tensor:
        """What the reading of ``k`` is pulled to."""
        return v

    def reading(self, q: Tensor, read: Tensor) -> Tensor:
        """What the memory's reading of ``q`` becomes."""
        return read

    @classmethod
    def levels(cls, config: HopeConfig) -> tuple[LevelSpec, ...]:
        return (LevelSpec("phi", config.chunk if cls.frozen_reads(config) else 1),)

    @property
    def phase_period(self) -> int:
        return self.config.chunk

    def spec(self) -> tuple[TensorSpec, ...]:
        return (*self.memory.spec("", "phi"), self.inputs.spec("phi"))

    def reference_norms(self) -> dict[str, Tensor]:
        return {"phi": self.memory.initial_norm()}

    def drift_tensors(self) -> dict[str, tuple[str, ...]]:
        return {"phi": tuple(f"{layer}{'' if self._frozen else '_next'}" for layer in self.memory.layers)}

    def step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State, dict[str, Tensor]]:
        x = x[:, None]
        q, k, v, window = self._heads(x, state["window"])
        read, memory, kept = self._part(q, k, v, self.gates(x), state)
        due = (position + 1) % self.config.chunk == 0
        settled = settle(memory, self.memory.layers)
        memory = {name: keep_rows(due, settled[name], tensor) for name, tensor in memory.items()}
        wrote = kept & due if self._frozen else kept
        y = self.output(self.reading(q, read), x)[:, 0]
        return y, {**apart(memory), "window": window}, {"phi": wrote.long()}

    def forward(self, x: Tensor, state: State, phase: int) -> tuple[Tensor, State, dict[str, Tensor]]:
        chunk = self.config.chunk
        sizes = run_lengths(phase, x.shape[1], chunk)
        q, k, v, window = self._heads(x, state["window"])
        heads = zip(*(t.split(sizes, dim=2) for t in (q, k, v)), strict=True)
        memory = {name: tensor for name, tensor in state.items() if name != "window"}
        wrote, reads, read_tokens = torch.zeros(x.shape[0], dtype=torch.long, device=x.device), [], 0
        with full_precision(x):
            for (q_part, k_part, v_part), gates in zip(heads, self.gates(x).split(sizes), strict=True):
                read, memory, kept = self._part(q_part, k_part, v_part, gates, memory)
                read_tokens += read.shape[2]
                due = (phase + read_tokens) % chunk == 0
                if due:
                    memory = settle(memory, self.memory.layers)
                wrote = wrote + kept.long() * (int(due) if self._frozen else read.shape[2])
                reads.append(read)
        y = self.output(self.reading(q, torch.cat(reads, dim=2)), x)
        return y, {**apart(memory), "window": window}, {"phi": wrote}

    def _heads(self, x: Tensor, window: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, window = self.inputs(x, window)
        return l2_normalize(q), l2_normalize(k), v, window

    def _part(
        self, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: State
    ) -> tuple[Tensor, State, Tensor]:
        """Tokens of one chunk: ``q, k, v [B, H, T, K]`` ->
        ``(read, state', [B] whether all were written)``.
        """
        memory = self.memory
        weights = memory.at(state)
        trace = memory.read(weights, k)
        grad = self.objective(trace.output, self.target(k, v))
        mix = ChunkMix(gates.log_alpha, gates.log_beta)
        writes = memory.writes(state, mix, trace, memory.gradients(weights, trace, grad), gates.rate)
        if self._frozen:
            read = memory.read(weights, q).output
        else:
            read = memory.read_within(state, writes, q, strict=False)
        after, kept = kept_heads(memory.after(writes, state), state, memory.spec("", ""))
        return read, after, kept


def kept_heads(new: State, old: State, specs: tuple[TensorSpec, ...]) -> tuple[State, Tensor]:
    """Heads of ``new`` all of whose matrices are finite, else of ``old``; ``[B]`` rows where all heads
    were.
    """
    changed = [spec.name for spec in specs if new[spec.name] is not old[spec.name]]
    finite = torch.stack([finite_rows(new[name].flatten(0, -3)) for name in changed]).all(0)
    kept = {name: keep_rows(finite, new[name].flatten(0, -3), old[name].flatten(0, -3)) for name in changed}
    rows = finite.view(len(new[changed[0]]), -1).all(1)
    return {**new, **{name: tensor.view_as(new[name]) for name, tensor in kept.items()}}, rows


def settle(state: State, layers: tuple[str, ...], prefix: str = "") -> State:
    """At a chunk's end: what was learned is bounded, and is what the next chunk finds."""
    new = dict(state)
    for layer in layers:
        name = f"{prefix}{layer}"
        bounded = bound_norm(state[f"{name}_next"], MAX_NORM, axes=(-2, -1))
        new[name] = new[f"{name}_next"] = bounded
        if f"{name}_momentum" in state:
            new[f"{name}_momentum"] = bound_norm(state[f"{name}_momentum"], MAX_NORM, axes=(-2, -1))
    return new


def apart(state: State) -> State:
    """The same state, in which what gradients are taken at shares no storage with what was settled."""
    return {
        name: tensor.clone() if tensor is state.get(f"{name}_next") else tensor
        for name, tensor in state.items()
    }
