"""Frozen weights in the layout that the CPU's matrix kernels read, so that no call rearranges them. On a GPU
they stay as they are, and products come in calls of one shape.

A row's bits do not depend on how many rows share the call (checked by
``hope_kernels.row_invariance``): oneDNN sums along K in one order, in fp32. With AMX it does so for at most
32 rows, and for weights that are not so small that threads share a sum.
"""

from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.company import in_company
from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.frozen import FrozenWeights
from hope_kernels.fixed_calls import in_fixed_calls
from hope_kernels.frozen_linear import FrozenLinear, with_gradient

_TYPICAL_ROWS = 16
"""The layout is chosen for a decode batch of this size; other sizes give the same bits."""
_AMX_ROWS = 32
"""Rows of a call."""
_AMX_OUTPUTS = 64
"""Least rows of a weight; zeros fill it up."""


class PackedLinear(FrozenLinear):
    """By the compiled kernel or oneDNN's products of packed weights on a CPU, else by PyTorch's own.

    Args:
        weight: ``[N, K]``, frozen; packed on a CPU in bf16, else kept as it is.
        bias: ``[N]``, in the weight's type.
        backward: keep a packed transpose too, for layers that gradients pass.
        single: pack fp32 too; slower than a product of many rows, with bits as independent as those of bf16.
        arena: where the compiled kernel keeps a weight of bf16; None to do without it.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        backward: bool = False,
        single: bool = False,
        arena: Arena | None = None,
    ) -> None:
        super().__init__(weight, bias)
        self._transposed: PackedLinear | _Packed | None = None
        if arena is not None:
            self.compiled = FrozenWeights(weight, bias, arena)
            self._plain = self._packed = None
            if backward:
                self._transposed = PackedLinear(weight.mT, arena=arena)
                self.compiled_transpose = self._transposed.compiled
            return
        packs = can_pack(weight, single=single)
        self._plain = None if packs else weight
        self._packed = _Packed.of(weight, bias) if packs else None
        self._transposed = _Packed.of(weight.mT, None) if packs and backward else None

    @property
    def weight(self) -> Tensor:
        """The weight as it was given, ``[N, K]``; unpacked if need be."""
        if self.compiled is not None:
            return self.compiled.unpacked()
        if self._packed is None:
            assert self._plain is not None
            return self._plain
        return self._packed.weight.to_dense()[: self.rows]

    @property
    def nbytes(self) -> int:
        bias = 0 if self.bias is None else self.bias.nbytes
        if self.compiled is not None and self.compiled.in_blocks:
            return self.compiled.nbytes + bias
        return self.rows * self.columns * self.dtype.itemsize + bias

    def __call__(self, x: Tensor) -> Tensor:
        transposed = None if self._transposed is None else self._transposed.product
        if self.compiled is not None or self._packed is not None:
            return with_gradient(x, self.product, transposed)
        weight, bias = self.weight, self.bias
        if x.is_cuda:
            return in_fixed_calls(lambda rows: F.linear(rows, weight, bias), x)
        return F.linear(x, weight, bias)

    def product(self, x: Tensor) -> Tensor:
        """Of a packed weight, without a gradient."""
        if self.compiled is not None:
            return self.compiled.product(x).to(self.dtype)
        assert self._packed is not None
        return self._packed.product(x)


def can_pack(weight: Tensor, *, single: bool = False) -> bool:
    """Whether this build has packed kernels for ``weight``; those of fp32 count with ``single``."""
    if weight.dtype is torch.bfloat16:
        supported = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        supported = single and weight.dtype is torch.float32 and torch.backends.mkldnn.is_available()
    return bool(supported and weight.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


@dataclass(frozen=True)
class _Packed:
    """weight: ``[N', K]``, ``N' >= N`` with zeros below. bias: ``[N']``."""

    weight: Tensor
    bias: Tensor | None
    outputs: int

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Self:
        outputs = len(weight)
        missing = max(_AMX_OUTPUTS - outputs, 0) if _has_amx() else 0
        whole = F.pad(weight, (0, 0, 0, missing)).contiguous()
        packed = torch.ops.mkldnn._reorder_linear_weight(whole, _TYPICAL_ROWS)
        return cls(packed, None if bias is None else F.pad(bias, (0, missing)), outputs)

    def product(self, x: Tensor) -> Tensor:
        """``x [..., K] -> [..., N]``."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > _AMX_ROWS and _has_amx():
            y = torch.cat([self._call(part) for part in rows.split(_AMX_ROWS)])
        else:
            y = self._call(rows)
        return y[:, : self.outputs].reshape(*x.shape[:-1], self.outputs)

    def _call(self, rows: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            in_company(rows), self.weight, self.bias, "none", [], ""
        )
        return y[: len(rows)]


@cache
def _has_amx() -> bool:
    return torch.cpu._is_amx_tile_supported()
