"""Plain torch form of the selective state space (E38): ``h_t = exp(δ_t A) ⊙ h_{t-1} + δ_t x_t B_tᵀ``,
``y_t = h_t C_t``.
"""

import torch
from torch import Tensor


def selective_step(
    hidden: Tensor, *, x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """One token.

    Args:
        hidden: ``[B, I, N]``.
        x, delta: ``[B, I]`` input and step of each channel.
        a: ``[I, N]``, negative.
        b, c: ``[B, N]``.

    Returns:
        ``(y [B, I], hidden')``.
    """
    hidden = torch.exp(delta[..., None] * a) * hidden + (delta * x)[..., None] * b[:, None, :]
    return torch.matmul(hidden, c[..., None])[..., 0], hidden
