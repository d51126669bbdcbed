"""What low-rank memories add to a projection (E25): every row has its own ``U``, found by its slot."""

from torch import Tensor

from hope_kernels.dispatch import Dispatch, on_gpu
from hope_kernels.low_rank_read import reference
from hope_kernels.low_rank_read.reference import low_rank_product

MAX_FUSED_RANK = 128
"""A program goes over the rank one by one."""


def _serves(coordinates: Tensor, deltas: Tensor, slots: Tensor) -> bool:
    return (
        on_gpu(coordinates, deltas, slots)
        and coordinates.shape[1] == 1
        and deltas.shape[1] <= MAX_FUSED_RANK
        and coordinates.dtype.itemsize <= 4
        and deltas.is_contiguous()
    )


low_rank_read = Dispatch(
    "low_rank_read", reference.low_rank_read, "hope_kernels.low_rank_read.fused:low_rank_read", _serves
)

__all__ = ["low_rank_product", "low_rank_read"]
