"""Products with frozen weights of 8 or 4 bits, on a CPU, by PyTorch's own kernels."""

from hope_kernels.quantized_linear.int4 import GROUP, Int4Linear
from hope_kernels.quantized_linear.int8 import Int8Linear
from hope_kernels.quantized_linear.support import Bits, works

__all__ = ["GROUP", "Bits", "Int4Linear", "Int8Linear", "works"]
