"""The memory step, declared for tests, compilation and timings."""

import torch
from torch import Tensor

from hope_kernels.memory_step import memory_step
from hope_kernels.subject import Arguments, Maker, Sizes, Subject


def _make(maker: Maker, sizes: Sizes) -> Arguments:
    heads, width = sizes["heads"], sizes["width"]
    made = (heads, 2 * width + 2, width)
    scale = width**-0.5
    return {
        "memory": maker.slab(heads, width, width) * scale,
        "projections": maker.slab(*made) * scale,
        "projections_next": maker.slab(*made) * scale,
        "slots": maker.slots(),
        "due": maker.alternate(first=True),
        "learns": maker.integers(*(index % 4 != 2 for index in range(maker.rows)), dtype=torch.bool),
        "z": maker.normal(maker.rows, heads, width),
        "q": maker.unit(maker.rows, heads, width),
        "memory_initial": maker.normal(heads, width, width) * scale,
        "projections_initial": maker.normal(*made) * scale,
        "rate_bias": maker.normal(heads),
        "retention_bias": maker.normal(heads) + 3,
        "projection_rate": maker.normal(heads) - 3,
        "projection_retention": maker.normal(heads) + 3,
        "max_rate": 0.5,
        "max_norm": 0.85 * width**0.5,  # most heads are beyond it
    }


def _again(arguments: Arguments) -> int:
    """Every row reads the initial memories, and ``q`` comes twice."""
    shared: tuple[Tensor, ...] = (arguments["memory_initial"], arguments["projections_initial"])
    rows = len(arguments["slots"])
    return (rows - 1) * sum(tensor.nbytes for tensor in shared) + int(arguments["q"].nbytes)


SUBJECTS = (
    Subject(
        memory_step,
        _make,
        tuple({"heads": heads, "width": width} for heads, width in ((2, 1), (1, 7), (2, 63), (2, 64))),
        {"heads": 32, "width": 64},
        32,
        # Read; at one token in 64 also written.
        state={"memory": 2, "projections": 1 + 1 / 64, "projections_next": 2},
        by_row=("due", "learns", "z", "q"),
        again=_again,
    ),
)
