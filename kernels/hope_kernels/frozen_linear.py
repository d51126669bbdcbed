"""What every product with frozen weights offers, however its weights are kept."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hope_kernels.cpu.frozen import FrozenWeights

Product = Callable[[Tensor], Tensor]


class FrozenLinear(ABC):
    """``y = x W^T + b``, ``W [rows, columns]``, with a gradient with respect to ``x`` alone.

    Args:
        weight: ``[N, K]``, whose type and device are those of ``x`` and ``y``.
        bias: ``[N]``.
    """

    SUFFIX = ""
    """Of its weight's name: one that is kept another way is another constant."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.rows, self.columns = weight.shape
        self.dtype, self.device = weight.dtype, weight.device
        self.bias = bias
        self.compiled: FrozenWeights | None = None
        """How the compiled kernel keeps them, where it multiplies."""
        self.compiled_transpose: FrozenWeights | None = None
        """And their transpose, where a gradient is to pass."""

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """``[rows, columns]`` in ``dtype``, as the product uses it."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that a call reads beside ``x``."""

    def constants(self) -> Iterator[tuple[str, Tensor]]:
        """All that a result depends on beside ``x``, with what to append to the product's name."""
        yield self.SUFFIX, self.weight
        if self.bias is not None:
            yield ".bias", self.bias

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """``x [..., columns]`` -> ``[..., rows]``."""


def with_gradient(x: Tensor, product: Product, transposed: Product | None) -> Tensor:
    """``product(x)``; the gradient that ``x`` may ask for passes back through ``transposed``.

    Raises:
        RuntimeError: it asks, and there is none.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return product(x)
    if transposed is None:
        raise RuntimeError("packed without a transpose: no gradient passes here")
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
