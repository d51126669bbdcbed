"""One program a row and a run of outputs: the row's memory passes once, its rank in order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hope_kernels.launch import launch

OUTPUTS = 256
UNROLL = 16
"""Loads that are on their way together."""


def low_rank_read(coordinates: Tensor, deltas: Tensor, slots: Tensor) -> Tensor:
    """As the reference, for one token a row: ``coordinates [B, 1, r]``; the slab is dense."""
    rows, _, rank = coordinates.shape
    count = deltas.shape[2]
    added = torch.empty(rows, 1, count, dtype=coordinates.dtype, device=coordinates.device)
    block = min(OUTPUTS, max(2, triton.next_power_of_2(count)))
    launch(
        read_row,
        (triton.cdiv(count, block), rows),
        coordinates.contiguous(),
        deltas,
        slots,
        added,
        RANK=rank,
        COUNT=count,
        OUTPUTS=block,
        UNROLL=min(UNROLL, triton.next_power_of_2(rank)),
    )
    return added


@triton.autotune(configs=[triton.Config({}, num_warps=warps) for warps in (1, 2)], key=["RANK", "COUNT"])
@triton.jit
def read_row(
    coordinates,
    deltas,
    slots,
    added,
    RANK: tl.constexpr,
    COUNT: tl.constexpr,
    OUTPUTS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """``y_o = sum_r c_r U_ro``, summed in the order of ``r``."""
    i_row = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + i_row)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = outputs < COUNT
    b_added = tl.zeros([OUTPUTS], tl.float32)
    if slot >= 0:
        p_delta = deltas + slot * RANK * COUNT + outputs
        for start in range(0, RANK, UNROLL):
            for step in tl.static_range(UNROLL):
                i_rank = start + step
                left = tl.where(i_rank < RANK, COUNT, 0)
                b_delta = tl.load(p_delta + i_rank * COUNT, mask=outputs < left, other=0.0)
                weight = tl.load(coordinates + i_row * RANK + tl.minimum(i_rank, RANK - 1))
                # Beyond the rank nothing is added: zero times a weight that is not finite would be.
                b_added += tl.where(i_rank < RANK, weight.to(tl.float32) * b_delta.to(tl.float32), 0.0)
    tl.store(added + i_row * COUNT + outputs, b_added.to(added.dtype.element_ty), mask=inside)
