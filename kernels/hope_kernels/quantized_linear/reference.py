"""Plain torch form: weights rounded to few values, and the product with what they stand for."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

HIGHEST_INT8 = 127
MIDDLE_INT4, HIGHEST_INT4 = 8, 15


@dataclass(frozen=True)
class Quantized:
    """``W ~ values * scales + zeros``.

    values: ``[N, K]`` int8. scales, zeros: fp32, ``[N, K / g]``, of ``g`` neighbours each.
    """

    values: Tensor
    scales: Tensor
    zeros: Tensor

    @classmethod
    def int8(cls, weight: Tensor) -> Self:
        """One scale a row, no zeros: ``weight [N, K]``, finite -> values -127 to 127."""
        rows = _finite(weight)
        scales = _positive(rows.abs().amax(1, keepdim=True) / HIGHEST_INT8)
        values = (rows / scales).round().clamp(-HIGHEST_INT8, HIGHEST_INT8)
        return cls(values.to(torch.int8), scales, torch.zeros_like(scales))

    @classmethod
    def int4(cls, weight: Tensor, group: int) -> Self:
        """``group`` neighbours share scale and zero, both of bf16's values: -8 to 7.

        Least and greatest of a group keep their values, as in llama.cpp's Q4_1: what comes from such a file
        comes out as it went in.
        """
        groups = _finite(weight).unflatten(1, (-1, group))
        least, greatest = groups.amin(-1), groups.amax(-1)
        scales = _positive(((greatest - least) / HIGHEST_INT4).bfloat16().float())
        zeros = (least + MIDDLE_INT4 * scales).bfloat16().float()
        values = ((groups - zeros[..., None]) / scales[..., None]).round()
        return cls(
            values.clamp(-MIDDLE_INT4, HIGHEST_INT4 - MIDDLE_INT4).flatten(1).to(torch.int8), scales, zeros
        )

    def weight(self) -> Tensor:
        """``[N, K]`` fp32."""
        groups = self.values.float().unflatten(1, (self.scales.shape[1], -1))
        whole: Tensor = groups * self.scales[..., None] + self.zeros[..., None]
        return whole.flatten(1)


def linear(x: Tensor, quantized: Quantized, bias: Tensor | None = None) -> Tensor:
    """``y = x W^T + b``: ``x [..., K]`` -> ``[..., N]``, in fp32."""
    y = x.float() @ quantized.weight().mT
    return y if bias is None else y + bias.float()


def _finite(weight: Tensor) -> Tensor:
    if not bool(weight.isfinite().all()):
        raise ValueError("expected finite weights, found others")
    return weight.float()


def _positive(scales: Tensor) -> Tensor:
    """Of a row of zeros or of one value, whatever fits."""
    return torch.where(scales > 0, scales, 1.0)
