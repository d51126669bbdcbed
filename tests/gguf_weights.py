"""Weights as a conversion finds them in a GGUF file."""

from __future__ import annotations

import gguf
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor


def in_file(weight: Tensor, kind: Kind) -> Tensor:
    """What a file of ``kind`` makes of ``weight [N, K]``, zeros without a sign, in fp32."""
    numbers = gguf.dequantize(gguf.quantize(weight.float().numpy(), kind), kind)
    return torch.from_numpy(numbers).float() + 0.0


def random_in_file(kind: Kind, outputs: int, columns: int, scale: float = 0.1) -> Tensor:
    """The same of random ones, rounded to bf16."""
    make = torch.Generator().manual_seed(0)
    return in_file(scale * torch.randn(outputs, columns, generator=make), kind).bfloat16()
