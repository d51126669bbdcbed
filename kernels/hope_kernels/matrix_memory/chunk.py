"""The chunk form of the matrix memory (E30): what does not need the memory is computed for all chunks at
once.

In a chunk the corrections solve a unit lower triangular system whose right side is linear in the memory ``M``
that the chunk starts from. Hence its outputs are ``Q M^T + O`` and the memory at its end is ``M F + G``, with
``Q, O, F, G`` known beforehand: one product a chunk is all that waits for the chunk before.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hope_kernels.delta_memory.triangular import inverse_with_gradient
from hope_kernels.matrix_memory.decay import ChunkDecay


@dataclass(frozen=True)
class ChunkMaps:
    """Chunks as maps of the memory that they start from: read ``read M^T + found``, then ``M carry + add``.

    Attributes:
        read: ``[..., T, K]``. found: ``[..., T, V]``. carry: ``[..., K, K]``. add: ``[..., V, K]``.
    """

    read: Tensor
    found: Tensor
    carry: Tensor
    add: Tensor


def chunk_maps(
    *,
    q: Tensor,
    w: Tensor,
    k: Tensor,
    log_alpha: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
) -> ChunkMaps:
    """Chunks of ``T`` tokens as maps; equal to ``T`` calls of ``matrix_step``, whose arguments these are.

    ``q, k, a, b [..., T, K]``, ``w [..., T, V]``; ``log_alpha [..., T]`` or ``[..., T, K]``, see
    :class:`ChunkDecay`.
    """
    decay = ChunkDecay(log_alpha, by_channel=log_alpha.dim() == k.dim())
    read, scores, late_k = (
        decay.from_start(q, strict=False),
        decay.scores(q, k, strict=False),
        decay.to_end(k),
    )
    carry = torch.diag_embed(decay.whole.expand(*decay.whole.shape[:-1], k.shape[-1]))
    if a is None:
        return ChunkMaps(read, torch.matmul(scores, w), carry, torch.matmul(w.mT, late_k))
    inverse = inverse_with_gradient(decay.scores(a, k if b is None else b, strict=True))
    start = torch.matmul(inverse, decay.from_start(a, strict=True))
    if b is None:
        u, found, add, late_b = torch.matmul(inverse, w), None, None, late_k
    else:
        u = torch.matmul(inverse, torch.matmul(decay.scores(a, k, strict=True), w))
        found, add = torch.matmul(scores, w), torch.matmul(w.mT, late_k)
        scores, late_b = decay.scores(q, b, strict=False), decay.to_end(b)
    corrected, kept = torch.matmul(scores, u), torch.matmul(u.mT, late_b)
    return ChunkMaps(
        read + torch.matmul(scores, start),
        corrected if found is None else corrected + found,
        carry + torch.matmul(start.mT, late_b),
        kept if add is None else kept + add,
    )
