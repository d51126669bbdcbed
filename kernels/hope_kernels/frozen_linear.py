"""What every product with frozen weights offers, however its weights are kept."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


class FrozenLinear(Protocol):
    """``y = x W^T + b``, ``W [rows, columns]``, with a gradient with respect to ``x`` alone.

    dtype, device: of ``x`` and ``y``.
    """

    rows: int
    columns: int
    dtype: torch.dtype
    device: torch.device
    bias: Tensor | None

    @property
    def weight(self) -> Tensor:
        """``[rows, columns]`` in ``dtype``, as the product uses it."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that a call reads beside ``x``."""
        ...

    def constants(self) -> Iterator[tuple[str, Tensor]]:
        """All that a result depends on beside ``x``, with what to append to the product's name."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """``x [..., columns]`` -> ``[..., rows]``."""
        ...


def with_gradient(x: Tensor, product: Product, transposed: Product) -> Tensor:
    """``product(x)``, whose gradient passes back through ``transposed``."""
    y: Tensor = _Passing.apply(x, product, transposed)  # type: ignore[no-untyped-call]
    return y


class _Passing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Product, transposed: Product) -> Tensor:
        ctx.transposed = transposed
        return product(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed(grad.contiguous()), None, None
