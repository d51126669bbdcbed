"""The family of matrix memories that decay and are corrected along one direction a token (E30).

A rule of it says what a token writes; reading, chunks, guards and state are here.
"""

from abc import abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_kernels.matrix_memory import chunk_maps, matrix_step
from hope_model.config import HopeConfig
from hope_model.guards import bound_norm, full_precision, keep_finite_heads
from hope_model.rules.base import MemoryRule
from hope_model.state import LevelSpec, State, TensorSpec

MAX_NORM = 32768.0
"""Of a head's matrix: far above what a decaying or error-correcting memory reaches, far below overflow."""


@dataclass(frozen=True)
class Terms:
    """What a run of tokens reads and writes: ``[B, H, T, .]`` as ``matrix_step`` has them."""

    q: Tensor
    w: Tensor
    k: Tensor
    log_alpha: Tensor
    a: Tensor | None = None
    b: Tensor | None = None

    def given(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        return {f.name: x for f in fields(self) if (x := getattr(self, f.name)) is not None}


class MatrixRule(MemoryRule):
    """A matrix per head, zero at the start, written by every token and read after that write.

    ``output`` is a :class:`HeadOutput` unless the rule has an :meth:`emit` of its own.
    """

    output: nn.Module

    @classmethod
    def levels(cls, config: HopeConfig) -> tuple[LevelSpec, ...]:
        return (LevelSpec("phi", 1),)

    @property
    def phase_period(self) -> int:
        return self.config.chunk

    def spec(self) -> tuple[TensorSpec, ...]:
        head = self.config.head_width
        return (TensorSpec("matrix", "phi", (self.config.heads, head, head)), *self.input_spec())

    def reference_norms(self) -> dict[str, Tensor]:
        """One unit write a head, since the memory starts at zero."""
        return {"phi": self.norm_of_units(self.config.heads)}

    def drift_tensors(self) -> dict[str, tuple[str, ...]]:
        return {"phi": ("matrix",)}

    @abstractmethod
    def input_spec(self) -> tuple[TensorSpec, ...]:
        """State that the inputs need."""

    @abstractmethod
    def terms(self, x: Tensor, state: State) -> tuple[Terms, State, Tensor]:
        """``x [B, T, D]`` -> what it reads and writes, the state of :meth:`input_spec` after it, and what
        :meth:`emit` needs of the input, ``[B, T, .]``.
        """

    def emit(self, read: Tensor, source: Tensor, terms: Terms) -> Tensor:
        """``read [B, H, T, V]`` and what :meth:`terms` gave for it -> the layer's output ``[B, T, D]``."""
        y: Tensor = self.output(read, source)
        return y

    def step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State, dict[str, Tensor]]:
        terms, after, source = self.terms(x[:, None], state)
        one = {name: term[:, :, 0] for name, term in terms.given().items()}
        read, matrix = matrix_step(state["matrix"], **one)
        due = (position + 1) % self.config.chunk == 0
        matrix = torch.where(due[:, None, None, None], _bound(matrix), matrix)
        matrix, wrote = keep_finite_heads(matrix, state["matrix"])
        y = self.emit(read[:, :, None], source, terms)[:, 0]
        return y, {"matrix": matrix, **after}, {"phi": wrote.long()}

    def forward(self, x: Tensor, state: State, phase: int) -> tuple[Tensor, State, dict[str, Tensor]]:
        terms, after, source = self.terms(x, state)
        with full_precision(x):
            read, matrix, wrote = self._run(terms, state["matrix"], phase % self.config.chunk)
        return self.emit(read, source, terms), {"matrix": matrix, **after}, {"phi": wrote}

    def _run(self, terms: Terms, matrix: Tensor, phase: int) -> tuple[Tensor, Tensor, Tensor]:
        """-> ``(read [B, H, T, V], matrix', [B] tokens written)``.

        Tokens that neither decay nor write fill up the first and the last chunk.
        """
        tokens, chunk = terms.q.shape[2], self.config.chunk
        last = (phase + tokens) % chunk
        if phase + tokens <= chunk:  # inside one chunk: as it is
            before, size, rest = 0, tokens, 0
        else:
            before, size, rest = phase, chunk, -(phase + tokens) % chunk
        scalar = terms.log_alpha.dim() == 3
        cut = {
            name: _cut(term, before, rest, size, scalar and name == "log_alpha")
            for name, term in terms.given().items()
        }
        maps = chunk_maps(**cut)
        starts, count = [], maps.carry.shape[2]
        wrote = torch.zeros(matrix.shape[0], dtype=torch.long, device=matrix.device)
        for n in range(count):
            starts.append(matrix)
            new = torch.matmul(matrix, maps.carry[:, :, n]) + maps.add[:, :, n]
            if n < count - 1 or last == 0:
                new = _bound(new)
            matrix, kept = keep_finite_heads(new, matrix)
            real = size - (before if n == 0 else 0) - (rest if n == count - 1 else 0)
            wrote = wrote + kept.long() * real
        read = torch.matmul(maps.read, torch.stack(starts, dim=2).mT) + maps.found
        return read.flatten(2, 3)[:, :, before : before + tokens], matrix, wrote


def _cut(term: Tensor, before: int, rest: int, size: int, scalar: bool) -> Tensor:
    """``[B, H, T, .]`` or ``[B, H, T]`` -> chunks ``[B, H, N, size, .]``, zeros before and after."""
    if before or rest:
        term = F.pad(term, (before, rest) if scalar else (0, 0, before, rest))
    cut: Tensor = term.unflatten(2, (-1, size))
    return cut


def _bound(matrix: Tensor) -> Tensor:
    return bound_norm(matrix, MAX_NORM, axes=(-2, -1))
