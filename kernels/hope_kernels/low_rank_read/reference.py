"""Plain torch form of reading low-rank memories (E25 of ``model/EQUATIONS.md``)."""

import torch
from torch import Tensor


def low_rank_read(coordinates: Tensor, deltas: Tensor, slots: Tensor) -> Tensor:
    """``(A h) U`` of each row.

    Args:
        coordinates: ``A h``, ``[B, T, r]``.
        deltas: slab ``[S, r, out]`` of ``U``, in the coordinates' type.
        slots: ``[B]`` int64; -1 for a padded row, which reads zeros.

    Returns:
        ``[B, T, out]``, sums in fp32.
    """
    own = deltas.index_select(0, slots.clamp_min(0))
    return torch.where((slots >= 0)[:, None, None], torch.matmul(coordinates, own), 0)
