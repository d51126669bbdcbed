"""Rows of a slab by slot: out into a batch, and a batch back into its slots.

Slots are ``[B]`` int64, distinct where rows are written; -1 stands for no row, so that a batch can be padded
to a fixed size. A padded row is gathered as zeros and scattered nowhere.
"""

from torch import Tensor

from hope_kernels.dispatch import Dispatch, on_gpu
from hope_kernels.slab_rows import reference

gather_rows = Dispatch(
    "gather_rows",
    reference.gather_rows,
    "hope_kernels.slab_rows.fused:gather_rows",
    lambda slab, slots: on_gpu(slab, slots) and slab.is_contiguous(),
)


def _scatters(slab: Tensor, slots: Tensor, rows: Tensor) -> bool:
    return on_gpu(slab, slots, rows) and slab.is_contiguous()


scatter_rows = Dispatch(
    "scatter_rows", reference.scatter_rows, "hope_kernels.slab_rows.fused:scatter_rows", _scatters
)

__all__ = ["gather_rows", "scatter_rows"]
