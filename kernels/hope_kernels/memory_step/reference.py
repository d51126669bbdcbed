"""Plain torch form of one token of the self-modifying memory (E6-E10 of ``model/EQUATIONS.md``)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.delta_memory.reference import delta_step
from hope_kernels.norms import bounded
from hope_kernels.slab_rows.reference import gather_rows, scatter_rows


class Stepped(NamedTuple):
    """``read [B, H, K]``; ``wrote`` and ``projected [B, H]`` bool: whether a head took its write, of the
    memory and of the pending projections. Padded rows read zeros; they and rows that do not learn write
    nothing.
    """

    read: Tensor
    wrote: Tensor
    projected: Tensor


def memory_step(
    memory: Tensor,
    projections: Tensor,
    projections_next: Tensor,
    slots: Tensor,
    due: Tensor,
    learns: Tensor,
    z: Tensor,
    q: Tensor,
    memory_initial: Tensor,
    projections_initial: Tensor,
    rate_bias: Tensor,
    retention_bias: Tensor,
    projection_rate: Tensor,
    projection_retention: Tensor,
    *,
    max_rate: float,
    max_norm: float,
) -> Stepped:
    """Read and write one token in place; a head's write that is not finite is refused.

    Args:
        memory: slab ``[S, H, K, K]``, difference to ``memory_initial [H, K, K]``.
        projections, projections_next: slabs ``[S, H, 2K + 2, K]``: as read in this chunk, and as it will be;
            differences to ``projections_initial [H, 2K + 2, K]``. Rows make keys, values, rate, retention.
        slots: ``[B]`` int64, distinct; -1 for a padded row.
        due: ``[B]`` bool, whether the token ends its chunk: norms are bounded and the pending write is taken.
        learns: ``[B]`` bool; a row where it is false is read and not written.
        z: ``[B, H, K]`` what the memories read.
        q: ``[B, H, K]`` unit queries.
        rate_bias, retention_bias, projection_rate, projection_retention: ``[H]``, before their sigmoids.
        max_rate: of writes. max_norm: Frobenius norm of a head's differences at a chunk's end.
    """
    present = slots >= 0
    own, anchor, pending = (gather_rows(slab, slots) for slab in (memory, projections, projections_next))
    k, a, w, a_pending, w_pending, alpha = _terms(
        z, anchor, projections_initial, rate_bias, retention_bias, projection_rate, max_rate
    )
    read, new = delta_step(own, memory_initial, a=a, w=w, k=k, alpha=alpha, q=q)
    retention = torch.sigmoid(projection_retention).expand_as(alpha)
    _, new_pending = delta_step(
        pending, projections_initial, a=a_pending, w=w_pending, k=k, alpha=retention, q=q
    )
    ends = due[:, None, None, None]
    new, wrote = _kept(torch.where(ends, bounded(new, max_norm), new), own)
    new_pending, projected = _kept(torch.where(ends, bounded(new_pending, max_norm), new_pending), pending)
    written = torch.where(learns, slots, -1)
    scatter_rows(memory, written, new)
    scatter_rows(projections, written, torch.where(ends, new_pending, anchor))
    scatter_rows(projections_next, written, new_pending)
    writes = (present & learns)[:, None]
    return Stepped(torch.where(present[:, None, None], read + q, 0), wrote & writes, projected & writes)


def _terms(
    z: Tensor,
    anchor: Tensor,
    initial: Tensor,
    rate_bias: Tensor,
    retention_bias: Tensor,
    projection_rate: Tensor,
    max_rate: float,
) -> tuple[Tensor, ...]:
    """``k``, ``a``, ``w``, ``a'``, ``w'``, ``α`` of E6, E9 and E10."""
    width = z.shape[-1]
    eye = torch.eye(width, dtype=z.dtype, device=z.device)
    maps = initial + torch.cat((eye, eye, torch.zeros_like(eye[:1]), torch.zeros_like(eye[:1]))) + anchor
    made = torch.matmul(maps, z[..., None]).squeeze(-1)  # [B, H, 2K + 2]
    k, v = _unit(made[..., :width]), _unit(made[..., width : 2 * width])
    rate = max_rate * torch.sigmoid(made[..., -2, None] + rate_bias[:, None])
    alpha = F.logsigmoid(made[..., -1] + retention_bias).exp()
    slow_rate = rate * torch.sigmoid(projection_rate)[:, None]
    change = k - v
    moved = torch.matmul(maps, change[..., None]).squeeze(-1)
    return k, rate * (v - 2 * k), rate * -change, -slow_rate * k, -slow_rate * moved, alpha


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _kept(new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """Each head's new matrix where it is finite, else its old one; and which were."""
    finite = torch.isfinite(new).flatten(2).all(2)
    return torch.where(finite[..., None, None], new, old), finite
