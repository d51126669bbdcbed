"""Plain torch form of moving slab rows."""

import torch
from torch import Tensor


def gather_rows(slab: Tensor, slots: Tensor) -> Tensor:
    """Copies of rows: ``slab [S, ...]``, ``slots [B]`` -> ``[B, ...]``; zeros for slot -1."""
    rows = slab.index_select(0, slots.clamp_min(0))
    absent = (slots < 0).view(-1, *(1,) * (slab.dim() - 1))
    return torch.where(absent, torch.zeros_like(rows), rows)


def scatter_rows(slab: Tensor, slots: Tensor, rows: Tensor) -> None:
    """``slab[slots] = rows`` in place: ``slab [S, ...]``, ``slots [B]`` distinct, ``rows [B, ...]``."""
    present = slots >= 0
    slab[slots[present]] = rows[present]
