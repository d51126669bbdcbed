"""Plain torch form of a matrix memory that decays and is corrected along one direction a token (E30).

``M_t = M_{t-1} diag(alpha_t) + (M_{t-1} a_t) b_t^T + w_t k_t^T``, read after the write: ``o_t = M_t q_t``.
"""

import torch
from torch import Tensor


def matrix_step(
    memory: Tensor,
    *,
    q: Tensor,
    w: Tensor,
    k: Tensor,
    log_alpha: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Write one token and read.

    Args:
        memory: ``[B, H, V, K]``.
        q, k: ``[B, H, K]`` read key and write key.
        w: ``[B, H, V]`` what is written whatever the memory holds.
        log_alpha: logarithm of the retention, ``[B, H]`` or ``[B, H, K]``.
        a: ``[B, H, K]`` where the memory is read for its own correction; None for no correction.
        b: ``[B, H, K]`` the key under which the correction is written; None for ``k``.

    Returns:
        ``(o [B, H, V], memory' [B, H, V, K])``.
    """
    alpha = log_alpha.exp()
    alpha = alpha[..., None, None] if alpha.dim() == 2 else alpha[..., None, :]
    written = memory * alpha + w[..., :, None] * k[..., None, :]
    if a is not None:
        u = torch.matmul(memory, a[..., None])
        written = written + u * (k if b is None else b)[..., None, :]
    return torch.matmul(written, q[..., None])[..., 0], written


def momentum_step(
    delta: Tensor,
    momentum: Tensor | None,
    base: Tensor,
    *,
    k: Tensor,
    w: Tensor,
    alpha: Tensor,
    beta: Tensor | None = None,
    eta: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Write one token with momentum and erasure (E39): the plain form of ``LayerWrites``.

    ``delta, momentum [B, H, V, K]``, ``base [H, V, K]``, ``k [B, H, K]``, ``w [B, H, V]``, the rest
    ``[B, H]``.
    """
    written = w[..., :, None] * k[..., None, :]
    if momentum is not None and beta is not None:
        written = momentum = beta[..., None, None] * momentum + written
    after = alpha[..., None, None] * delta + written
    if eta is not None:
        read = torch.matmul(base + delta, k[..., None])
        after = after - eta[..., None, None] * read * k[..., None, :]
    return after, momentum
