"""A level's matrix memory on slab rows in place: every token reads it and adds to its gradient (E12, E13), a
period's last token writes it (E14-E17).
"""

from torch import Tensor

from hope_kernels.associative_memory import reference
from hope_kernels.associative_memory.reference import Rule
from hope_kernels.dispatch import Dispatch, on_gpu

MAX_FUSED_WIDTH = 1024
"""A few of the memory's rows stay in one program's registers."""


def _steps(
    delta: Tensor,
    gradient: Tensor,
    last_key: Tensor,
    slots: Tensor,
    learns: Tensor,
    base: Tensor,
    key: Tensor,
    value: Tensor,
    rate: Tensor,
) -> bool:
    floats = (delta, gradient, last_key, base, key, value, rate)
    return (
        on_gpu(slots, learns, *floats)
        and len(base) <= MAX_FUSED_WIDTH
        and all(x.element_size() == 4 and x.is_contiguous() for x in floats[:4])
    )


def _writes(
    delta: Tensor,
    gradient: Tensor,
    last_key: Tensor,
    slots: Tensor,
    due: Tensor,
    key: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    count: Tensor | None,
    step_length: Tensor,
    retention: Tensor,
    *,
    rule: Rule,
    max_step: float,
    max_norm: float,
) -> bool:
    slabs = [slab for slab in (delta, gradient, last_key, first, second) if slab is not None]
    return on_gpu(slots, due, key, *slabs) and all(x.element_size() == 4 and x.is_contiguous() for x in slabs)


associative_step = Dispatch(
    "associative_step",
    reference.associative_step,
    "hope_kernels.associative_memory.fused:associative_step",
    _steps,
)
associative_write = Dispatch(
    "associative_write",
    reference.associative_write,
    "hope_kernels.associative_memory.fused_write:associative_write",
    _writes,
)

__all__ = ["Rule", "associative_step", "associative_write"]
