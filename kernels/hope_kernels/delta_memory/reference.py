"""Plain torch form of the diagonal-plus-rank-one memory recurrence (E9 of ``model/EQUATIONS.md``).

The memory is ``M_t = base + D_t``; ``base`` is shared by all rows, ``D_t`` belongs to one row. Every token
writes ``D_t = alpha_t D_{t-1} + u_t k_t^T`` with ``u_t = (base + D_{t-1}) a_t + w_t``, and is read before
that write: ``o_t = (base + D_{t-1}) q_t``.
"""

import torch
from torch import Tensor

from hope_kernels.slab_rows.reference import gather_rows, scatter_rows


def delta_step(
    delta: Tensor, base: Tensor, *, a: Tensor, w: Tensor, k: Tensor, alpha: Tensor, q: Tensor
) -> tuple[Tensor, Tensor]:
    """Read and write one token.

    Args:
        delta: ``[B, H, V, K]`` what each row has learned so far.
        base: ``[H, V, K]`` shared initial memory.
        a: ``[B, H, K]`` direction in which the memory is read for its own write.
        w: ``[B, H, V]`` the part of the write that does not depend on the memory.
        k: ``[B, H, K]`` write key.
        alpha: ``[B, H]`` retention in (0, 1].
        q: ``[B, H, K]`` read key.

    Returns:
        ``(o [B, H, V], delta' [B, H, V, K])``.
    """
    read = torch.matmul(base + delta, torch.stack((q, a), dim=-1))  # [B, H, V, 2]
    u = read[..., 1] + w
    written = alpha[..., None, None] * delta + u[..., :, None] * k[..., None, :]
    return read[..., 0], written


def delta_chunk(
    delta: Tensor, base: Tensor, *, a: Tensor, w: Tensor, k: Tensor, log_alpha: Tensor, q: Tensor
) -> tuple[Tensor, Tensor]:
    """Read and write a chunk of ``T`` tokens in parallel; equals ``T`` calls of :func:`delta_step`.

    Args:
        delta: ``[B, H, V, K]``.
        base: ``[H, V, K]``.
        a, k, q: ``[B, H, T, K]``.
        w: ``[B, H, T, V]``.
        log_alpha: ``[B, H, T]`` logarithm of the retention.

    Returns:
        ``(o [B, H, T, V], delta' [B, H, V, K])``.
    """
    before, decay = _decays(log_alpha)
    u = _updates(delta, base, a, w, k, before, decay)
    carried = torch.matmul(q * before.exp()[..., None], delta.transpose(-1, -2))
    inside = torch.matmul(torch.matmul(q, k.transpose(-1, -2)) * decay, u)
    read = torch.matmul(q, base.transpose(-1, -2)) + carried + inside
    return read, _write(delta, u, k, log_alpha)


def delta_chunk_write(
    delta: Tensor, base: Tensor, *, a: Tensor, w: Tensor, k: Tensor, log_alpha: Tensor
) -> Tensor:
    """The write of :func:`delta_chunk` without its read: ``delta' [B, H, V, K]``."""
    before, decay = _decays(log_alpha)
    return _write(delta, _updates(delta, base, a, w, k, before, decay), k, log_alpha)


def delta_chunk_rows(
    delta: Tensor,
    base: Tensor,
    slots: Tensor,
    a: Tensor,
    w: Tensor,
    k: Tensor,
    log_alpha: Tensor,
    q: Tensor | None = None,
) -> Tensor | None:
    """:func:`delta_chunk` on rows of a slab, in place.

    Args:
        delta: slab ``[S, H, V, K]``.
        slots: ``[B]`` int64, distinct; -1 for a padded row.
        a, w, k, log_alpha, q: as there; without ``q`` the chunk is written alone.

    Returns:
        ``[B, H, T, V]``, zeros for a padded row; None without ``q``.
    """
    own = gather_rows(delta, slots)
    if q is None:
        written = delta_chunk_write(own, base, a=a, w=w, k=k, log_alpha=log_alpha)
        scatter_rows(delta, slots, written)
        return None
    read, written = delta_chunk(own, base, a=a, w=w, k=k, log_alpha=log_alpha, q=q)
    scatter_rows(delta, slots, written)
    return torch.where((slots >= 0)[:, None, None, None], read, 0)


def _decays(log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """``log prod_{s<t} alpha_s`` ``[B, H, T]``; ``prod_{s<j<t} alpha_j``, s < t, else 0: ``[B, H, T, T]``."""
    total = log_alpha.cumsum(-1)
    before = total - log_alpha
    tokens = log_alpha.shape[-1]
    future = torch.ones(tokens, tokens, dtype=torch.bool, device=log_alpha.device).triu()
    between = (before[..., :, None] - total[..., None, :]).masked_fill(future, float("-inf"))
    return before, between.exp()


def _updates(
    delta: Tensor, base: Tensor, a: Tensor, w: Tensor, k: Tensor, before: Tensor, decay: Tensor
) -> Tensor:
    """All ``u_t`` of a chunk: the unit lower-triangular system ``(I - L) U = R``."""
    lower = torch.matmul(a, k.transpose(-1, -2)) * decay
    carried = torch.matmul(a * before.exp()[..., None], delta.transpose(-1, -2))
    right = torch.matmul(a, base.transpose(-1, -2)) + carried + w
    solved: Tensor = torch.linalg.solve_triangular(-lower, right, upper=False, unitriangular=True)
    return solved


def _write(delta: Tensor, u: Tensor, k: Tensor, log_alpha: Tensor) -> Tensor:
    total = log_alpha.sum(-1, keepdim=True)
    after = (total - log_alpha.cumsum(-1)).exp()  # decay from each token to the end of the chunk
    return total.exp()[..., None] * delta + torch.matmul((u * after[..., None]).transpose(-1, -2), k)
