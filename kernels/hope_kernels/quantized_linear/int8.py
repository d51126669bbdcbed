"""Weights of 8 bits, activations of 15: sums of whole numbers, which come out the same in every order.

So a row's bits depend on nothing beside it, on any CPU and with any number of rows, threads and tiles.
A row of 8 bits would lose more than the weights do (KL of SmolLM2 to bf16 0.04 instead of 0.005 nats), so it
is read in two halves that share a pass over the weights. The compiled kernel instead multiplies activations
in bf16 with the whole numbers, in one order.
"""

import torch
from torch import Tensor

from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.frozen import FrozenWeights, Whole
from hope_kernels.frozen_linear import FrozenLinear, with_gradient
from hope_kernels.packed_linear import PackedLinear
from hope_kernels.quantized_linear.reference import HIGHEST_INT8, Quantized

_HALF = 256
_HIGHEST = HIGHEST_INT8 * _HALF
_ROUNDING = torch.tensor(0.5)
"""Halves go up, so that what is left is -128 to 127."""
_LEAST = torch.finfo(torch.float32).tiny * _HIGHEST


class Int8Linear(FrozenLinear):
    """By the compiled kernel, or by oneDNN's products of int8.

    Args:
        weight: ``[N, K]`` on a CPU.
        bias: ``[N]``.
        backward: keep what is quantised in the weight's type too, transposed, for gradients.
        arena: where the compiled kernel keeps them; None to do without it.
    """

    SUFFIX = ".int8"

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        backward: bool = False,
        arena: Arena | None = None,
    ) -> None:
        super().__init__(weight, bias)
        quantized = Quantized.int8(weight)
        self._transposed = (
            PackedLinear(quantized.weight().to(self.dtype).mT, arena=arena) if backward else None
        )
        self._scales = quantized.scales[:, 0].contiguous()
        if arena is not None:
            self.compiled = FrozenWeights(Whole(quantized.values, self._scales), bias, arena)
            self.compiled_transpose = None if self._transposed is None else self._transposed.compiled
            return
        self._packed = torch.ops.onednn.qlinear_prepack(quantized.values, None)
        self._zeros = torch.zeros(self.rows, dtype=torch.int32)

    @property
    def weight(self) -> Tensor:
        if self.compiled is not None:
            return (self.compiled.unpacked().float() * self._scales[:, None]).to(self.dtype)
        unit = torch.eye(self.columns, dtype=torch.int8)
        return self._whole(unit).mT.to(self.dtype)

    @property
    def nbytes(self) -> int:
        bias = 0 if self.bias is None else self.bias.nbytes
        return self.rows * self.columns + self._scales.nbytes + bias

    def __call__(self, x: Tensor) -> Tensor:
        return with_gradient(x, self._product, self._transposed)

    def _product(self, x: Tensor) -> Tensor:
        if self.compiled is not None:
            return self.compiled.product(x).to(self.dtype)
        rows = x.reshape(-1, self.columns).float()
        greatest = rows.abs().amax(-1, keepdim=True).clamp_min_(_LEAST)
        scaled = rows.mul(_HIGHEST / greatest).round_()
        high = torch.add(_ROUNDING, scaled, alpha=1 / _HALF).floor_()
        low = scaled.sub_(high, alpha=_HALF)
        whole = self._whole(torch.cat((high, low)).to(torch.int8))
        # Times 256 is exact: one rounding, whether fused or not.
        y = torch.add(whole[len(rows) :], whole[: len(rows)], alpha=_HALF).mul_(greatest.mul_(1 / _HIGHEST))
        if self.bias is not None:
            y = y.add_(self.bias)
        return y.to(self.dtype).view(*x.shape[:-1], self.rows)

    def _whole(self, x: Tensor) -> Tensor:
        """``x [R, K]`` int8 -> ``[R, N]`` fp32, the weights' scales applied."""
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            x,
            1.0,
            0,
            self._packed,
            self._scales,
            self._zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return y
