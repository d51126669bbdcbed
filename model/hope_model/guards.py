"""Guards that are part of every update rule, so that a replay repeats them."""

import torch
from torch import Tensor


def l2_normalize(x: Tensor) -> Tensor:
    """Unit vectors along the last axis; a zero vector stays zero, with a finite gradient."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def bound_norm(x: Tensor, limit: float, *, axes: tuple[int, ...]) -> Tensor:
    """Scale ``x`` down so that its Frobenius norm over ``axes`` is at most ``limit``; smaller values pass unchanged."""
    squared = x.square().sum(axes, keepdim=True)
    return x * (limit * torch.rsqrt(squared.clamp_min(limit * limit)))


def keep_finite(new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """Refuse a row's update that is not finite.

    Returns:
        ``(kept, applied)``: ``new`` where the whole row is finite, else ``old``; ``applied [B]`` bool.
    """
    applied = torch.isfinite(new.detach().flatten(1).abs().amax(1))
    if bool(applied.all()):
        return new, applied
    return torch.where(applied.view(-1, *(1,) * (new.dim() - 1)), new, old), applied


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which autocast leaves memory arithmetic in the memories' own type."""
    return torch.autocast(x.device.type, enabled=False)
