"""Guards that are part of every update rule, so that a replay repeats them."""

from typing import Any

import torch
from torch import Tensor


def l2_normalize(x: Tensor) -> Tensor:
    """Unit vectors along the last axis; a zero vector stays zero, with a finite gradient."""
    unit: Tensor = _Unit.apply(x)  # type: ignore[no-untyped-call]
    return unit


def bound_norm(x: Tensor, limit: float, *, axes: tuple[int, ...]) -> Tensor:
    """Scale ``x`` down to a Frobenius norm over ``axes`` of at most ``limit``; a smaller one is unchanged."""
    squared = x.square().sum(axes, keepdim=True)
    inside = squared <= limit * limit
    if asks_cheaply(x) and bool(inside.all()):
        return x
    # Clamped, since the root's gradient at zero is infinite also where it is not chosen.
    factor = limit * torch.rsqrt(squared.clamp_min(limit * limit))
    return x * torch.where(inside, torch.ones_like(squared), factor)


def keep_finite(new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """Refuse a row's update that is not finite.

    Returns:
        ``(kept, applied)``: ``new`` where the whole row is finite, else ``old``; ``applied [B]`` bool.
    """
    applied = finite_rows(new)
    return keep_rows(applied, new, old), applied


def keep_finite_heads(new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """Refuse a head's update, ``new, old [B, H, ...]``, that is not finite; the others of its row are kept.

    Returns:
        ``(kept, applied)``; ``applied [B]`` bool, where all heads of a row were.
    """
    kept, applied = keep_finite(new.flatten(0, 1), old.flatten(0, 1))
    return kept.view_as(new), applied.view(new.shape[:2]).all(1)


def finite_rows(x: Tensor) -> Tensor:
    """Which rows of ``x [B, ...]`` hold finite values alone: ``[B]`` bool."""
    # One value that is not finite makes the sum so; a sum that merely overflows is looked at row by row.
    if asks_cheaply(x) and bool(torch.isfinite(x.detach().sum())):
        return torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
    return torch.isfinite(x.detach()).reshape(x.shape[0], -1).all(1)


def keep_rows(applied: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``new`` in the rows where ``applied [B]`` holds, else ``old``."""
    if asks_cheaply(applied) and bool(applied.all()):
        return new
    return torch.where(applied.view(-1, *(1,) * (new.dim() - 1)), new, old)


def keep_learning(learns: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    """``new`` in the rows that learn, ``[B]`` bool or None for all; else ``old``."""
    return new if learns is None else keep_rows(learns, new, old)


def asks_cheaply(x: Tensor) -> bool:
    """Whether a value is at hand; that of a GPU's tensor comes when all work before it is done."""
    return x.device.type == "cpu"


class _Unit(torch.autograd.Function):
    """``y = x r`` with ``r = (|x|^2 + 1e-6)^-1/2``; its gradient is ``r (g - y (y . g))``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        unit, inverse = ctx.saved_tensors
        along = (unit * grad).sum(-1, keepdim=True)
        grad_x: Tensor = inverse * torch.addcmul(grad, unit, along, value=-1)
        return grad_x


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which autocast leaves memory arithmetic in the memories' own type."""
    return torch.autocast(x.device.type, enabled=False)
