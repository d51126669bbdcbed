"""The chunk form of the memory recurrence with a backward of its own (E9, E10 of ``model/EQUATIONS.md``).

Same results as :mod:`hope_kernels.delta_memory.reference`. All tokens that read the memory, for their own
write or for their output, are rows of one matrix, so that a chunk is a few large products, which the backward
uses again.
"""

from typing import Any

import torch
from torch import Tensor

from hope_kernels.delta_memory.triangular import unit_lower_inverse


def delta_chunk(
    delta: Tensor, base: Tensor, *, a: Tensor, w: Tensor, k: Tensor, log_alpha: Tensor, q: Tensor
) -> tuple[Tensor, Tensor]:
    """Read and write a chunk of ``T`` tokens in parallel; equals ``T`` calls of ``delta_step``.

    Args:
        delta: ``[B, H, V, K]``.
        base: ``[H, V, K]``.
        a, k, q: ``[B, H, T, K]``.
        w: ``[B, H, T, V]``.
        log_alpha: ``[B, H, T]`` logarithm of the retention.

    Returns:
        ``(o [B, H, T, V], delta' [B, H, V, K])``.
    """
    reads = torch.cat((a, q), dim=-2)
    read, written = _Chunk.apply(delta, base, reads, w, k, log_alpha)  # type: ignore[no-untyped-call]
    return read, written


def delta_chunk_write(
    delta: Tensor, base: Tensor, *, a: Tensor, w: Tensor, k: Tensor, log_alpha: Tensor
) -> Tensor:
    """The write of :func:`delta_chunk` without its read: ``delta' [B, H, V, K]``."""
    written: Tensor = _Chunk.apply(delta, base, a, w, k, log_alpha)[1]  # type: ignore[no-untyped-call]
    return written


class _Chunk(torch.autograd.Function):
    """``reads [B, H, R T, K]``: first ``T`` rows ``a``, then none or ``q`` for the output."""

    @staticmethod
    def forward(
        ctx: Any, delta: Tensor, base: Tensor, reads: Tensor, w: Tensor, k: Tensor, log_alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        tokens = k.shape[-2]
        total = log_alpha.cumsum(-1)
        before = total - log_alpha
        # Above the diagonal the difference is positive and may overflow: cut off, not multiplied by zero.
        decay = (before[..., :, None] - total[..., None, :]).exp_().tril_(-1)  # prod_{s<j<t} alpha_j
        before, after, whole = before.exp(), (total[..., -1:] - total).exp(), total[..., -1].exp()
        scores = _by_token(torch.matmul(reads, k.mT), decay)
        start = torch.matmul(reads, base.mT) + torch.matmul(_by_token(reads, before[..., None]), delta.mT)
        inverse = unit_lower_inverse(scores[..., :tokens, :])
        u = torch.matmul(inverse, start[..., :tokens, :] + w)
        read = start[..., tokens:, :] + torch.matmul(scores[..., tokens:, :], u)
        written = whole[..., None, None] * delta + torch.matmul((u * after[..., None]).mT, k)
        ctx.save_for_backward(delta, base, reads, k, decay, before, after, whole, scores, inverse, u)
        return read, written

    @staticmethod
    def backward(ctx: Any, grad_read: Tensor, grad_written: Tensor) -> tuple[Tensor, ...]:
        delta, base, reads, k, decay, before, after, whole, scores, inverse, u = ctx.saved_tensors
        tokens = k.shape[-2]
        through_k = torch.matmul(k, grad_written.mT) * after[..., None]  # [B, H, T, V]
        grad_u = torch.matmul(scores[..., tokens:, :].mT, grad_read) + through_k
        grad_right = torch.matmul(inverse.mT, grad_u)
        grads = torch.cat((grad_right, grad_read), dim=-2)  # of every row that was read
        grad_scores = torch.matmul(grads, u.mT)
        grad_before, grad_total = _decay_gradients(grad_scores * scores, tokens)
        grad_products = _by_token(grad_scores, decay)
        from_delta = _by_token(torch.matmul(grads, delta), before[..., None])
        grad_before = grad_before + _over_reads((reads * from_delta).sum(-1), tokens)
        last = (through_k * u).sum(-1)
        grad_total = grad_total - last
        grad_total[..., -1] += last.sum(-1) + whole * (delta * grad_written).sum((-2, -1))
        grad_total = grad_total + grad_before
        return (
            whole[..., None, None] * grad_written
            + torch.matmul(grads.mT, _by_token(reads, before[..., None])),
            torch.matmul(grads.mT, reads).sum(0),
            torch.matmul(grad_products, k) + torch.matmul(grads, base) + from_delta,
            grad_right,
            torch.matmul(grad_products.mT, reads) + torch.matmul(u * after[..., None], grad_written),
            grad_total.flip(-1).cumsum(-1).flip(-1) - grad_before,
        )


def _by_token(rows: Tensor, factor: Tensor) -> Tensor:
    """``rows [B, H, R T, N]`` times ``factor [B, H, T, N or 1]``, the same for all ``R`` reads of a token."""
    by_read: Tensor = rows.unflatten(-2, (-1, factor.shape[-2]))
    return (by_read * factor[..., None, :, :]).flatten(-3, -2)


def _over_reads(rows: Tensor, tokens: int) -> Tensor:
    """Sum over the reads of a token: ``[B, H, R T] -> [B, H, T]``."""
    by_read: Tensor = rows.unflatten(-1, (-1, tokens))
    return by_read.sum(-2)


def _decay_gradients(weighted: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Gradients of the logarithms before and up to a token, from ``weighted [B, H, R T, T]``."""
    return _over_reads(weighted.sum(-1), tokens), -weighted.sum(-2)
