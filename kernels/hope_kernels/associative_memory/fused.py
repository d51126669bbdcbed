"""One program a row of the batch and a few rows of its matrix: memory and gradient pass once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hope_kernels.launch import launch

TILE = 4096
"""Elements of each matrix in one program."""


def associative_step(
    delta: Tensor,
    gradient: Tensor,
    last_key: Tensor,
    slots: Tensor,
    learns: Tensor,
    base: Tensor,
    key: Tensor,
    value: Tensor,
    rate: Tensor,
) -> Tensor:
    """As the reference, in fp32; slabs are dense."""
    rows, width = key.shape
    reading = torch.empty(rows, width, dtype=key.dtype, device=key.device)
    columns = max(2, triton.next_power_of_2(width))
    block = max(2, min(TILE // columns, triton.next_power_of_2(width)))
    launch(
        step_rows,
        (triton.cdiv(width, block), rows),
        delta,
        gradient,
        last_key,
        slots,
        learns,
        base,
        key.contiguous(),
        value.contiguous(),
        rate.contiguous(),
        reading,
        M=width,
        COLUMNS=columns,
        ROWS=block,
    )
    return reading


@triton.autotune(
    configs=[triton.Config({}, num_warps=warps) for warps in (4, 8)], key=["M"], restore_value=["gradient"]
)
@triton.jit
def step_rows(
    delta,
    gradient,
    last_key,
    slots,
    learns,
    base,
    key,
    value,
    rate,
    reading,
    M: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """``W κ_t`` is read; ``r_t (W κ_{t-1} - ν_t) κ_{t-1}ᵀ`` is added to the gradient."""
    i_row = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + i_row)
    lines = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    if slot < 0:
        tl.store(reading + i_row * M + lines, tl.zeros([ROWS], tl.float32), mask=lines < M)
        return
    at = lines[:, None] * M + columns[None, :]
    inside = (lines < M)[:, None] & (columns < M)[None, :]
    b_memory = tl.load(base + at, mask=inside, other=0.0)
    b_memory += tl.load(delta + slot * M * M + at, mask=inside, other=0.0)
    b_key = tl.load(key + i_row * M + columns, mask=columns < M, other=0.0)
    b_last = tl.load(last_key + slot * M + columns, mask=columns < M, other=0.0)
    b_value = tl.load(value + i_row * M + lines, mask=lines < M, other=0.0)
    tl.store(reading + i_row * M + lines, tl.sum(b_memory * b_key[None, :], axis=1), mask=lines < M)
    b_error = tl.load(rate + i_row) * (tl.sum(b_memory * b_last[None, :], axis=1) - b_value)
    p_gradient = gradient + slot * M * M + at
    if tl.load(learns + i_row) != 0:
        b_gradient = tl.load(p_gradient, mask=inside, other=0.0) + b_error[:, None] * b_last[None, :]
        tl.store(p_gradient, b_gradient, mask=inside)
