"""Moving slab rows, declared for tests, compilation and timings."""

import torch

from hope_kernels.slab_rows import gather_rows, scatter_rows
from hope_kernels.subject import Arguments, Maker, Sizes, Subject

_SMALL: tuple[Sizes, ...] = ({"row": 1}, {"row": 63}, {"row": 100}, {"row": 5000})
_DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8)


def _gather(maker: Maker, sizes: Sizes) -> Arguments:
    slab = (10 * maker.slab(sizes["row"])).to(maker.dtype)
    return {"slab": slab, "slots": maker.slots()}


def _scatter(maker: Maker, sizes: Sizes) -> Arguments:
    rows = (10 * maker.normal(maker.rows, sizes["row"])).to(maker.dtype)
    return {**_gather(maker, sizes), "rows": rows}


SUBJECTS = (
    Subject(
        gather_rows,
        _gather,
        _SMALL,
        {"row": 32 * 64 * 64},
        32,
        read=("slab",),
        dtypes=_DTYPES,
        tolerance=dict.fromkeys(_DTYPES, 0.0),
    ),
    Subject(
        scatter_rows,
        _scatter,
        _SMALL,
        {"row": 32 * 64 * 64},
        32,
        state={"slab": 1},
        by_row=("rows",),
        dtypes=_DTYPES,
        tolerance=dict.fromkeys(_DTYPES, 0.0),
    ),
)
