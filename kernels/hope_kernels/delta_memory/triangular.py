"""Inverse of unit lower triangular matrices by halves, in matrix products alone.

A library's triangular solve takes the matrices of a batch one after another; at 64 x 64 that is several times
slower than the product it stands for.
"""

from typing import Any

import torch
from torch import Tensor

LEAF = 8
"""Up to this size a matrix is inverted by its series, which ends: a strictly lower matrix is nilpotent."""


def unit_lower_inverse(lower: Tensor) -> Tensor:
    """``(I - lower)^-1`` for strictly lower triangular ``lower [..., N, N]``; any ``N >= 1``.

    Let ``I - lower`` have the halves ``A``, ``B`` on its diagonal and ``-C`` below: its inverse has ``A^-1``,
    ``B^-1`` on the diagonal and ``B^-1 C A^-1`` below.
    """
    size = lower.shape[-1]
    if size <= LEAF:
        return _series(lower)
    half = size // 2
    first, last, below = lower[..., :half, :half], lower[..., half:, half:], lower[..., half:, :half]
    if size % 2:
        upper_left, lower_right = unit_lower_inverse(first), unit_lower_inverse(last)
    else:
        upper_left, lower_right = unit_lower_inverse(torch.stack((first, last))).unbind(0)
    inverse = torch.zeros_like(lower)
    inverse[..., :half, :half] = upper_left
    inverse[..., half:, half:] = lower_right
    inverse[..., half:, :half] = torch.matmul(lower_right, torch.matmul(below, upper_left))
    return inverse


def _series(lower: Tensor) -> Tensor:
    """``I + lower + lower^2 + ... = (I + lower)(I + lower^2)(I + lower^4) ...``"""
    size = lower.shape[-1]
    inverse = torch.eye(size, dtype=lower.dtype, device=lower.device) + lower
    power, terms = lower, 2
    while terms < size:
        power = torch.matmul(power, power)
        inverse = inverse + torch.matmul(power, inverse)
        terms *= 2
    return inverse


def inverse_with_gradient(lower: Tensor) -> Tensor:
    """:func:`unit_lower_inverse` with a backward of its own: two products instead of the recursion's."""
    inverse: Tensor = _Inverse.apply(lower)  # type: ignore[no-untyped-call]
    return inverse


class _Inverse(torch.autograd.Function):
    """``d (I - L)^-1 = X dL X`` with ``X`` the inverse."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor) -> Tensor:
        inverse = unit_lower_inverse(lower)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return torch.matmul(torch.matmul(inverse.mT, grad), inverse.mT).tril(-1)
