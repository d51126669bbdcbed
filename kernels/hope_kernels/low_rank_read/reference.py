"""Plain torch form of reading low-rank memories (E25 of ``model/EQUATIONS.md``)."""

import torch
from torch import Tensor

from hope_kernels.company import in_company


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
    return torch.where((slots >= 0)[:, None, None], low_rank_product(coordinates, own), 0)


def low_rank_product(coordinates: Tensor, deltas: Tensor) -> Tensor:
    """``coordinates [B, T, r]`` times ``deltas [B, r, out]``: ``[B, T, out]``.

    On a CPU a row's bits depend neither on ``B`` nor on ``T`` (checked by ``hope_kernels.row_invariance``).
    """
    return torch.matmul(in_company(coordinates), deltas)[:, : coordinates.shape[1]]
