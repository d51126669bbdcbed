"""Keys and values of the tokens in sight, a ring per session: a cache of the token ids, never durable.

A cache position counts the tokens in a row's cache: the pinned prefix comes first, then the tokens since the
window was last encoded. Positions of the prefix keep their slots, the others go round in a ring.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.cpu.arena import Arena
from hope_model.attention.config import GRID, HopeAttentionConfig


@dataclass(slots=True)
class Row:
    """Where a row stands: ``read`` tokens in the cache, the first ``prefix`` of them pinned."""

    prefix: int = 0
    read: int = 0


class WindowCache:
    """``rows`` rings side by side, in place by row index.

    keys, values: per layer ``[rows, G, size, K]``. hidden, outputs: ``[rows, size, D]`` fp32, inputs of the
    first adapted layer and outputs of the last one.
    ``capacity = prefix + window + GRID``, up to the next multiple of GRID: a launch of up to GRID tokens
    overwrites nothing its first token sees. Until a row is that long there are only the slots in use, by the
    GRID: products read dense tensors of few sizes.

    Args:
        whole: have all slots from the beginning, on a CPU: what a row has lies in one piece, in large pages,
            which the system gives when the row is first cleared: no token waits for them.
    """

    def __init__(
        self,
        config: HopeAttentionConfig,
        rows: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        whole: bool = False,
    ) -> None:
        backbone = config.backbone
        self.window = config.memory.window
        self.capacity = self.capacity_of(config)
        self.size = self.capacity if whole else min(GRID, self.capacity)
        shape = (backbone.kv_heads, self.size, backbone.head_width)
        if whole:
            arena = Arena()
            rings = arena.zeros(rows, 2, backbone.layers, *shape, dtype=dtype)
            self.keys, self.values = list(rings[:, 0].unbind(1)), list(rings[:, 1].unbind(1))
            self.hidden, self.outputs = arena.zeros(rows, 2, self.size, backbone.width).unbind(1)
        else:
            self.keys, self.values = (
                [torch.zeros(rows, *shape, dtype=dtype, device=device) for _ in range(backbone.layers)]
                for _ in range(2)
            )
            self.hidden = torch.zeros(rows, self.size, backbone.width, device=device)
            self.outputs = torch.zeros_like(self.hidden)
        self.rows = [Row() for _ in range(rows)]
        self._untouched = set(range(rows)) if whole else set()

    @staticmethod
    def capacity_of(config: HopeAttentionConfig) -> int:
        """Slots of a row that is full."""
        return _on_grid(config.memory.prefix + config.memory.window) + GRID

    @staticmethod
    def row_bytes(config: HopeAttentionConfig, dtype: torch.dtype) -> int:
        """Of one row of full capacity."""
        backbone = config.backbone
        cached = 2 * backbone.layers * backbone.kv_heads * backbone.head_width * dtype.itemsize
        return WindowCache.capacity_of(config) * (cached + 2 * 4 * backbone.width)

    def clear(self, row: int) -> None:
        """Forget a row's tokens; nothing of them stays, since masked values still enter products."""
        used = self.size if row in self._untouched else self._used(row)
        self._untouched.discard(row)
        for tensor in self.tensors():
            tensor[row, ..., :used, :].zero_()
        self.rows[row] = Row()

    def copy(self, row: int, source: "WindowCache", source_row: int) -> None:
        """Row ``row`` becomes ``source_row`` of ``source``."""
        self.reserve(source.span([source_row], 0))
        used = self._used(row)
        for mine, theirs in zip(self.tensors(), source.tensors(), strict=True):
            own, other = mine[row], theirs[source_row]
            held = min(own.shape[-2], other.shape[-2])
            own[..., :held, :].copy_(other[..., :held, :])
            own[..., held : max(held, used), :].zero_()
        self.rows[row] = Row(source.rows[source_row].prefix, source.rows[source_row].read)

    def _used(self, row: int) -> int:
        """The row's slots up to the last one that is not all zeros."""
        return min(self.rows[row].read, self.size)

    def reserve(self, slots: int) -> None:
        """Have at least ``slots`` slots in every row; without memory for them all, nothing changes."""
        if slots <= self.size:
            return
        more = (0, 0, 0, slots - self.size)
        keys, values = ([F.pad(own, more) for own in every] for every in (self.keys, self.values))
        hidden, outputs = F.pad(self.hidden, more), F.pad(self.outputs, more)
        self.keys, self.values, self.hidden, self.outputs = keys, values, hidden, outputs
        self.size = slots

    def slots(self, row: int, tokens: int) -> Tensor:
        """The ring's slots of the row's next ``tokens`` tokens, ``[tokens]`` int64."""
        at = self.rows[row]
        positions = torch.arange(at.read, at.read + tokens)
        return torch.where(positions < at.prefix, positions, _slot(positions, at.prefix, self.capacity))

    def slot_of(self, row: int, position: int) -> int:
        """The slot of a cache position that is still in the ring."""
        prefix = self.rows[row].prefix
        return position if position < prefix else prefix + (position - prefix) % (self.capacity - prefix)

    def span(self, rows: Sequence[int], tokens: int) -> int:
        """Slots that must be looked at after ``tokens`` more tokens: a multiple of GRID."""
        filled = max(self.rows[row].read for row in rows) + tokens
        return min(self.capacity, _on_grid(filled))

    def bias(self, rows: Sequence[int], positions: Tensor, read: Tensor, span: int) -> Tensor:
        """Which slots each query sees.

        Args:
            rows: the rows of the batch.
            positions: cache positions of the queries, ``[B, T]``.
            read: tokens in each row's cache, the queries' own included, ``[B]``.
            span: slots looked at.

        Returns:
            ``[B, T, span]`` fp32: 0 for the prefix and the last ``window`` positions up to the query's own,
            ``-inf`` for the rest.
        """
        slots = torch.arange(span)[None]
        prefix = torch.tensor([self.rows[row].prefix for row in rows])[:, None]
        last = read[:, None] - 1
        behind = (last - slots) % (self.capacity - prefix)
        held = torch.where(slots < prefix, slots, last - behind)[:, None]
        query = positions[:, :, None]
        pinned = (slots < prefix)[:, None]
        seen = (held <= query) & (pinned | ((held > query - self.window) & (held >= prefix[:, None])))
        bias = torch.zeros(seen.shape, dtype=torch.float32).masked_fill_(~seen, -torch.inf)
        return bias.to(self.hidden.device)

    def tensors(self) -> tuple[Tensor, ...]:
        """All of every row's, rows first."""
        return *self.keys, *self.values, self.hidden, self.outputs


def _on_grid(tokens: int) -> int:
    return -(-tokens // GRID) * GRID


def _slot(positions: Tensor, prefix: int, capacity: int) -> Tensor:
    return prefix + (positions - prefix) % (capacity - prefix)
