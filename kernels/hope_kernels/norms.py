"""Bounds of norms in plain torch, for references; inside kernels they are those of ``guards``."""

import torch
from torch import Tensor


def bounded(x: Tensor, limit: float) -> Tensor:
    """Matrices ``[..., M, N]``, each with a Frobenius norm of at most ``limit``; smaller ones stay."""
    squared = x.square().sum((-2, -1), keepdim=True)
    factor = limit * torch.rsqrt(squared.clamp_min(limit * limit))
    return torch.where(squared <= limit * limit, x, x * factor)
