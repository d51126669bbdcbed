"""The declared layout of one session's state; slab, codec, store and metrics derive from it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from hope_kernels.slab_rows import gather_rows, scatter_rows

State = dict[str, Tensor]
"""Tensors by name, each with a leading row axis ``[B, ...]``; rows are independent sessions."""

COUNTERS = "counters"
"""Level name of bookkeeping tensors that are not memories."""


@dataclass(frozen=True)
class TensorSpec:
    """One state tensor; ``shape`` is without the leading row axis. It starts at zero."""

    name: str
    level: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def row_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class LevelSpec:
    """A level and its period in tokens; ``None`` for the frozen slow weights."""

    name: str
    period: int | None


@dataclass(frozen=True)
class StateSpec:
    """Every per-session tensor of a model and the levels they belong to."""

    tensors: tuple[TensorSpec, ...]
    levels: tuple[LevelSpec, ...]

    @cached_property
    def by_name(self) -> Mapping[str, TensorSpec]:
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def learning_levels(self) -> tuple[LevelSpec, ...]:
        return tuple(level for level in self.levels if level.period is not None)

    @property
    def row_bytes(self) -> int:
        """Bytes of one session's state."""
        return sum(tensor.row_bytes for tensor in self.tensors)

    def level_bytes(self, name: str) -> int:
        """Bytes of one session's state that belong to level ``name``."""
        return sum(tensor.row_bytes for tensor in self.tensors if tensor.level == name)

    def sha256(self) -> str:
        """Hex digest of the layout: equal digests mean that stored rows are interchangeable."""
        lines = [f"{t.name}|{t.level}|{t.shape}|{t.dtype}" for t in self.tensors]
        lines += [f"{level.name}|{level.period}" for level in self.levels]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def zeros(self, rows: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> State:
        """The initial state of ``rows`` sessions; ``dtype`` replaces the floating type."""
        return {
            t.name: torch.zeros(
                (rows, *t.shape),
                dtype=dtype if dtype is not None and t.dtype.is_floating_point else t.dtype,
                device=device,
            )
            for t in self.tensors
        }


def select_rows(state: State, rows: Tensor) -> State:
    """The state of the given rows (``[n]`` int64), copied."""
    return {name: tensor.index_select(0, rows) for name, tensor in state.items()}


def gather_state(slab: State, slots: Tensor) -> State:
    """Copies of the rows ``slots [B]`` (int64); zeros for -1, a padded row."""
    return {name: gather_rows(tensor, slots) for name, tensor in slab.items()}


def scatter_state(slab: State, slots: Tensor, rows: State) -> None:
    """Rows ``slots [B]`` (distinct) of the slab become ``rows``, in place; nothing is written for -1."""
    for name, tensor in rows.items():
        scatter_rows(slab[name], slots, tensor)


def on_host(state: State) -> State:
    """The same values in the host's memory; what is there already is not copied."""
    return {name: tensor.cpu() for name, tensor in state.items()}


def host_copy(state: State) -> State:
    """The same values in memory of the host that nothing else writes to."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}


def detach(state: State) -> State:
    """The same values, cut from the graph (truncated back-propagation)."""
    return {name: tensor.detach() for name, tensor in state.items()}
