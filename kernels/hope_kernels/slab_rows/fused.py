"""One launch moves all rows of a tensor, whatever its type: rows are copied as whole words."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hope_kernels.launch import launch

BLOCK = 2048
_WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def gather_rows(slab: Tensor, slots: Tensor) -> Tensor:
    """As the reference; ``slab`` is dense."""
    rows = torch.empty((len(slots), *slab.shape[1:]), dtype=slab.dtype, device=slab.device)
    _copy(slab, rows, slots, gather=True)
    return rows


def scatter_rows(slab: Tensor, slots: Tensor, rows: Tensor) -> None:
    """As the reference; ``slab`` is dense."""
    _copy(slab, rows.contiguous(), slots, gather=False)


def _copy(slab: Tensor, rows: Tensor, slots: Tensor, *, gather: bool) -> None:
    words = _words(slab)
    count = words.shape[1]
    if count == 0 or len(slots) == 0:
        return
    grid = (len(slots), triton.cdiv(count, BLOCK))
    launch(move_rows, grid, words, _words(rows), slots, count, BLOCK=BLOCK, GATHER=gather)


def _words(rows: Tensor) -> Tensor:
    """``[B, ...] -> [B, words]`` in the widest integer that a row is a multiple of."""
    flat = rows.reshape(len(rows), -1)
    row_bytes = flat.shape[1] * flat.element_size()
    kind = next(kind for kind in _WORDS if row_bytes % kind.itemsize == 0)
    return flat.view(torch.uint8).view(kind)


@triton.jit
def move_rows(slab, rows, slots, count, BLOCK: tl.constexpr, GATHER: tl.constexpr):
    """``rows[i] = slab[slots[i]]`` or the other way round, ``count`` words a row."""
    i_row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + i_row)
    offsets = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < count
    present = offsets < tl.where(slot >= 0, count, 0)
    if GATHER:
        b_words = tl.load(slab + slot * count + offsets, mask=present, other=0)
        tl.store(rows + i_row * count + offsets, b_words, mask=inside)
    else:
        b_words = tl.load(rows + i_row * count + offsets, mask=present)
        tl.store(slab + slot * count + offsets, b_words, mask=present)
