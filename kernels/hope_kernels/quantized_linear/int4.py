"""Weights of 4 bits in groups along their columns, activations as they are, sums in fp32.

By PyTorch's products few rows are read four times as fast as with bf16, and sixty-four take more than twice
as long; the compiled kernel is the faster one with any number of rows.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.frozen import FrozenWeights, Whole
from hope_kernels.frozen_linear import FrozenLinear, with_gradient
from hope_kernels.packed_linear import PackedLinear
from hope_kernels.quantized_linear.reference import MIDDLE_INT4, Quantized

GROUP = 32
"""Neighbours that share scale and zero: with 64, SmolLM2 is another model (KL to bf16 0.35 nats)."""
_TILE = 16
"""Rows of a weight come by the tile; zeros fill them up."""


class Int4Linear(FrozenLinear):
    """By the compiled kernel, or by PyTorch's weight-only products.

    Args:
        weight: ``[N, K]`` in bf16 on a CPU, ``K`` a multiple of :data:`GROUP`.
        bias: ``[N]``.
        backward: keep what is quantised in bf16 too, transposed, for gradients.
        arena: where the compiled kernel keeps them; None to do without it.
    """

    SUFFIX = ".int4"

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        backward: bool = False,
        arena: Arena | None = None,
    ) -> None:
        super().__init__(weight, bias)
        if self.columns % GROUP:
            raise ValueError(f"expected a multiple of {GROUP} columns, found {self.columns}")
        quantized = Quantized.int4(F.pad(weight, (0, 0, 0, -self.rows % _TILE)), GROUP)
        whole = quantized.weight()[: self.rows].to(self.dtype)
        self._transposed = PackedLinear(whole.mT, arena=arena) if backward else None
        if arena is not None:
            values, scales, zeros = (
                part[: self.rows] for part in (quantized.values, quantized.scales, quantized.zeros)
            )
            self.compiled = FrozenWeights(Whole(values + MIDDLE_INT4, scales, zeros), bias, arena)
            self.compiled_transpose = None if self._transposed is None else self._transposed.compiled
            return
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            quantized.values.int() + MIDDLE_INT4, 1
        )
        self._scales = torch.stack((quantized.scales.mT, quantized.zeros.mT), -1).to(self.dtype).contiguous()

    @property
    def weight(self) -> Tensor:
        if self.compiled is not None:
            return self.compiled.unpacked()
        return self._product(torch.eye(self.columns, dtype=self.dtype)).mT

    @property
    def nbytes(self) -> int:
        if self.compiled is not None:
            return self.compiled.nbytes + (0 if self.bias is None else self.bias.nbytes)
        parts = (self._packed, self._scales, self.bias)
        return sum(part.nbytes for part in parts if part is not None)

    def __call__(self, x: Tensor) -> Tensor:
        y = with_gradient(x, self._product, self._transposed)
        return y if self.bias is None or self.compiled is not None else y + self.bias

    def _product(self, x: Tensor) -> Tensor:
        if self.compiled is not None:
            return self.compiled.product(x).to(self.dtype)
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.reshape(-1, self.columns), self._packed, GROUP, self._scales
        )
        return y[:, : self.rows].reshape(*x.shape[:-1], self.rows)
