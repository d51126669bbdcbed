"""Frozen weights in the layout that the CPU's matrix kernels read, so that no call rearranges them.

A row's bits do not depend on how many rows share the call (checked by
``hope_kernels.row_invariance``): oneDNN sums along K in one order, in fp32.
"""

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")
"""Read when oneDNN is first used. Its AMX kernels sum in another order for few rows than for many."""

_TYPICAL_ROWS = 16
"""The layout is chosen for a decode batch of this size; other sizes give the same bits."""
_ALONE = 1024
"""Columns up to which a row that is alone is summed as it is in company; beyond them it gets company."""


class PackedLinear:
    """``y = x W^T + b`` with a gradient with respect to ``x`` alone.

    Args:
        weight: ``[N, K]``, frozen; packed on a CPU in bf16, else kept as it is.
        bias: ``[N]``, in the weight's type.
        backward: keep a packed transpose too, for layers that gradients pass.
        single: pack fp32 too; slower than a product of many rows, with bits as independent as those of bf16.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, backward: bool = False, single: bool = False
    ) -> None:
        self.rows, self.columns = weight.shape
        self._bias = bias
        self._packs = can_pack(weight, single=single)
        self._weight = _pack(weight) if self._packs else weight
        self._transposed = _pack(weight.mT.contiguous()) if self._packs and backward else None

    @property
    def weight(self) -> Tensor:
        """The weight as it was given, ``[N, K]``; unpacked if need be."""
        return self._weight.to_dense() if self._packs else self._weight

    @property
    def bias(self) -> Tensor | None:
        return self._bias

    def __call__(self, x: Tensor) -> Tensor:
        """``x [..., K]`` in the weight's type -> ``[..., N]``."""
        if not self._packs:
            return F.linear(x, self._weight, self._bias)
        if torch.is_grad_enabled() and x.requires_grad:
            if self._transposed is None:
                raise RuntimeError("packed without a transpose: no gradient passes here")
            y: Tensor = _PackedProduct.apply(x, self._weight, self._bias, self._transposed)  # type: ignore[no-untyped-call]
            return y
        return _product(x, self._weight, self._bias)


def can_pack(weight: Tensor, *, single: bool = False) -> bool:
    """Whether this build has packed kernels for ``weight``; those of fp32 count with ``single``."""
    if weight.dtype is torch.bfloat16:
        supported = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        supported = single and weight.dtype is torch.float32 and torch.backends.mkldnn.is_available()
    return bool(supported and weight.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


class _PackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _product(grad.contiguous(), ctx.transposed, None), None, None, None


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _TYPICAL_ROWS)
    return packed


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    columns = x.shape[-1]
    if x.numel() == columns > _ALONE:
        pair = x.reshape(1, columns).expand(2, columns)
        return _product(pair, weight, bias)[:1].view(*x.shape[:-1], -1)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y
