"""Reading low-rank memories, declared for tests, compilation and timings."""

import torch

from hope_kernels.low_rank_read import low_rank_read
from hope_kernels.subject import Arguments, Maker, Sizes, Subject


def _make(maker: Maker, sizes: Sizes) -> Arguments:
    rank, outputs = sizes["rank"], sizes["outputs"]
    return {
        "coordinates": maker.normal(maker.rows, 1, rank, dtype=maker.dtype),
        "deltas": (maker.slab(rank, outputs) * rank**-0.5).to(maker.dtype),
        "slots": maker.slots(),
    }


SUBJECTS = (
    Subject(
        low_rank_read,
        _make,
        (
            {"rank": 1, "outputs": 1},
            {"rank": 16, "outputs": 63},
            {"rank": 32, "outputs": 100},
            {"rank": 7, "outputs": 600},
        ),
        {"rank": 32, "outputs": 1536},
        32,
        read=("deltas",),
        by_row=("coordinates",),
        dtypes=(torch.float32, torch.bfloat16),
        tolerance={torch.float32: 2e-5, torch.bfloat16: 2e-2},
    ),
)
