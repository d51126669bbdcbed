"""One token of the self-modifying memory (E6-E10), on slab rows in place.

Keys, values, rates and retentions are read from a row's projection memories, its matrix memory is read and
written, and the projections' pending write grows by the token: one pass over the row's state.
"""

from typing import NamedTuple

from torch import Tensor

from hope_kernels.dispatch import Dispatch, on_gpu
from hope_kernels.memory_step import reference
from hope_kernels.memory_step.reference import Stepped


class Memories(NamedTuple):
    """The slabs of one block: ``memory [S, H, K, K]``, ``projections`` and ``projections_next``
    ``[S, H, 2K + 2, K]``, differences to the initial memories.
    """

    memory: Tensor
    projections: Tensor
    projections_next: Tensor


MAX_FUSED_WIDTH = 64
"""A head's memories stay in one program's registers."""


def _serves(*tensors: Tensor, max_rate: float, max_norm: float) -> bool:
    memory, floats = tensors[0], [tensor for tensor in tensors if tensor.is_floating_point()]
    return (
        on_gpu(*tensors)
        and memory.shape[-1] <= MAX_FUSED_WIDTH
        and all(tensor.element_size() == 4 for tensor in floats)
        and all(slab.is_contiguous() for slab in tensors[:3])
    )


memory_step = Dispatch(
    "memory_step", reference.memory_step, "hope_kernels.memory_step.fused:memory_step", _serves
)

__all__ = ["Memories", "Stepped", "memory_step"]
