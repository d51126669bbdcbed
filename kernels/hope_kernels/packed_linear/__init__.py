"""A product with frozen weights that many small batches share."""

from hope_kernels.packed_linear.packed import PackedLinear, can_pack

__all__ = ["PackedLinear", "can_pack"]
