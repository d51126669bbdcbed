"""Whether this machine's PyTorch multiplies with quantised weights, and rightly."""

from functools import cache
from typing import Literal

import torch

from hope_kernels.frozen_linear import FrozenLinear
from hope_kernels.quantized_linear.int4 import GROUP, Int4Linear
from hope_kernels.quantized_linear.int8 import Int8Linear
from hope_kernels.quantized_linear.reference import Quantized, linear

Bits = Literal["int8", "int4"]
_ROWS, _OUTPUTS, _COLUMNS = 5, 80, 3 * GROUP
_TOLERANCE = 0.01
"""Of the greatest result: bf16 has three digits."""


@cache
def works(bits: Bits) -> bool:
    """Whether the products are there and come to what the reference does."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_OUTPUTS, _COLUMNS, generator=generator).bfloat16()
    x = torch.randn(_ROWS, _COLUMNS, generator=generator).bfloat16()
    quantized = Quantized.int8(weight) if bits == "int8" else Quantized.int4(weight, GROUP)
    meant = linear(x, quantized)
    try:
        product: FrozenLinear = Int8Linear(weight) if bits == "int8" else Int4Linear(weight)
        found = product(x).float()
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return bool((found - meant).abs().max() <= _TOLERANCE * meant.abs().max())
