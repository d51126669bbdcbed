"""One program a row and head: its memories are loaded once, changed in registers and stored once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hope_kernels.guards import bound, is_wrong
from hope_kernels.launch import launch
from hope_kernels.memory_step.reference import Stepped


def memory_step(
    memory: Tensor,
    projections: Tensor,
    projections_next: Tensor,
    slots: Tensor,
    due: Tensor,
    learns: Tensor,
    z: Tensor,
    q: Tensor,
    memory_initial: Tensor,
    projections_initial: Tensor,
    rate_bias: Tensor,
    retention_bias: Tensor,
    projection_rate: Tensor,
    projection_retention: Tensor,
    *,
    max_rate: float,
    max_norm: float,
) -> Stepped:
    """As the reference, in fp32; ``K`` is at most 64 and slabs are dense."""
    rows, heads, width = z.shape
    read = torch.empty(rows, heads, width, dtype=z.dtype, device=z.device)
    wrote = torch.empty(rows, heads, dtype=torch.bool, device=z.device)
    projected = torch.empty(rows, heads, dtype=torch.bool, device=z.device)
    launch(
        step_head,
        (heads, rows),
        memory,
        projections,
        projections_next,
        slots,
        due,
        learns,
        z.contiguous(),
        q.contiguous(),
        memory_initial,
        projections_initial,
        rate_bias,
        retention_bias,
        projection_rate,
        projection_retention,
        read,
        wrote,
        projected,
        HEADS=heads,
        K=width,
        BLOCK=max(2, triton.next_power_of_2(width)),
        MAX_RATE=max_rate,
        MAX_NORM=max_norm,
    )
    return Stepped(read, wrote, projected)


@triton.autotune(
    configs=[triton.Config({}, num_warps=warps) for warps in (8, 16)],
    key=["HEADS", "K"],
    restore_value=["memory", "projections", "projections_next"],
)
@triton.jit
def step_head(
    memory,
    projections,
    projections_next,
    slots,
    due,
    learns,
    z,
    q,
    memory_initial,
    projections_initial,
    rate_bias,
    retention_bias,
    projection_rate,
    projection_retention,
    read,
    wrote,
    projected,
    HEADS: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    MAX_RATE: tl.constexpr,
    MAX_NORM: tl.constexpr,
):
    """``P`` makes ``k, v, η, α``; ``M`` is read at ``q`` and ``a``; ``D`` and ``E`` take the token."""
    i_head = tl.program_id(0)
    i_row = tl.program_id(1).to(tl.int64)
    i_unit = i_row * HEADS + i_head
    slot = tl.load(slots + i_row)
    axis = tl.arange(0, BLOCK)
    inside = axis < K
    square = inside[:, None] & inside[None, :]
    at = axis[:, None] * K + axis[None, :]
    if slot < 0:
        tl.store(read + i_unit * K + axis, 0.0, mask=inside)
        tl.store(wrote + i_unit, False)
        tl.store(projected + i_unit, False)
        return
    ends = tl.load(due + i_row) != 0
    writes = tl.load(learns + i_row) != 0
    b_z = tl.load(z + i_unit * K + axis, mask=inside, other=0.0)
    p_first = projections_initial + i_head * (2 * K + 2) * K
    p_anchor = projections + (slot * HEADS + i_head) * (2 * K + 2) * K
    p_pending = projections_next + (slot * HEADS + i_head) * (2 * K + 2) * K
    rates_at = 2 * K * K + axis
    keeps_at = 2 * K * K + K + axis

    # Keys, values, rate and retention, from the memories at the chunk's start.
    first_k = tl.load(p_first + at, mask=square, other=0.0)
    first_v = tl.load(p_first + K * K + at, mask=square, other=0.0)
    first_rate = tl.load(p_first + rates_at, mask=inside, other=0.0)
    first_keep = tl.load(p_first + keeps_at, mask=inside, other=0.0)
    eye = tl.where((axis[:, None] == axis[None, :]) & square, 1.0, 0.0)
    map_k = first_k + eye + tl.load(p_anchor + at, mask=square, other=0.0)
    map_v = first_v + eye + tl.load(p_anchor + K * K + at, mask=square, other=0.0)
    map_rate = first_rate + tl.load(p_anchor + rates_at, mask=inside, other=0.0)
    map_keep = first_keep + tl.load(p_anchor + keeps_at, mask=inside, other=0.0)
    b_k = tl.sum(map_k * b_z[None, :], axis=1)
    b_v = tl.sum(map_v * b_z[None, :], axis=1)
    b_k = b_k * (1.0 / tl.sqrt(tl.sum(b_k * b_k, axis=0) + 1e-6))
    b_v = b_v * (1.0 / tl.sqrt(tl.sum(b_v * b_v, axis=0) + 1e-6))
    rate = MAX_RATE * tl.sigmoid(tl.sum(map_rate * b_z, axis=0) + tl.load(rate_bias + i_head))
    alpha = tl.sigmoid(tl.sum(map_keep * b_z, axis=0) + tl.load(retention_bias + i_head))
    change = b_k - b_v
    slow = -rate * tl.sigmoid(tl.load(projection_rate + i_head))
    moved_k = slow * tl.sum(map_k * change[None, :], axis=1)
    moved_v = slow * tl.sum(map_v * change[None, :], axis=1)
    moved_rate = slow * tl.sum(map_rate * change, axis=0)
    moved_keep = slow * tl.sum(map_keep * change, axis=0)

    # The memory is read, then written.
    p_own = memory + (slot * HEADS + i_head) * K * K
    b_q = tl.load(q + i_unit * K + axis, mask=inside, other=0.0)
    delta = tl.load(p_own + at, mask=square, other=0.0)
    whole = delta + tl.load(memory_initial + i_head * K * K + at, mask=square, other=0.0)
    b_read = tl.sum(whole * b_q[None, :], axis=1)
    tl.store(read + i_unit * K + axis, b_read + tl.load(q + i_unit * K + axis, mask=inside), mask=inside)
    b_a = rate * (b_v - 2.0 * b_k)
    b_u = tl.sum(whole * b_a[None, :], axis=1) - rate * change
    delta = alpha * delta + b_u[:, None] * b_k[None, :]
    if ends:
        delta = delta * bound(tl.sum(tl.sum(delta * delta, axis=1), axis=0), MAX_NORM)
    fine = all_finite(delta) & writes
    tl.store(wrote + i_unit, fine)
    if fine:
        tl.store(p_own + at, delta, mask=square)

    # The projections' pending write.
    keep = tl.sigmoid(tl.load(projection_retention + i_head))
    b_a = slow * b_k
    pend_k = tl.load(p_pending + at, mask=square, other=0.0)
    pend_v = tl.load(p_pending + K * K + at, mask=square, other=0.0)
    pend_rate = tl.load(p_pending + rates_at, mask=inside, other=0.0)
    pend_keep = tl.load(p_pending + keeps_at, mask=inside, other=0.0)
    u_k = tl.sum((first_k + pend_k) * b_a[None, :], axis=1) + moved_k
    u_v = tl.sum((first_v + pend_v) * b_a[None, :], axis=1) + moved_v
    u_rate = tl.sum((first_rate + pend_rate) * b_a, axis=0) + moved_rate
    u_keep = tl.sum((first_keep + pend_keep) * b_a, axis=0) + moved_keep
    new_k = keep * pend_k + u_k[:, None] * b_k[None, :]
    new_v = keep * pend_v + u_v[:, None] * b_k[None, :]
    new_rate = keep * pend_rate + u_rate * b_k
    new_keep = keep * pend_keep + u_keep * b_k
    if ends:
        rows_squared = tl.sum(new_rate * new_rate + new_keep * new_keep, axis=0)
        squared = tl.sum(tl.sum(new_k * new_k + new_v * new_v, axis=1), axis=0) + rows_squared
        factor = bound(squared, MAX_NORM)
        new_k, new_v, new_rate, new_keep = (
            new_k * factor,
            new_v * factor,
            new_rate * factor,
            new_keep * factor,
        )
    fine = all_finite(new_k) & all_finite(new_v)
    fine = fine & all_finite(new_rate[None, :]) & all_finite(new_keep[None, :]) & writes
    tl.store(projected + i_unit, fine)
    if fine:
        tl.store(p_pending + at, new_k, mask=square)
        tl.store(p_pending + K * K + at, new_v, mask=square)
        tl.store(p_pending + rates_at, new_rate, mask=inside)
        tl.store(p_pending + keeps_at, new_keep, mask=inside)
    if ends & writes:  # a refused write leaves what was pending, which the next chunk reads
        tl.store(p_anchor + at, tl.where(fine, new_k, pend_k), mask=square)
        tl.store(p_anchor + K * K + at, tl.where(fine, new_v, pend_v), mask=square)
        tl.store(p_anchor + rates_at, tl.where(fine, new_rate, pend_rate), mask=inside)
        tl.store(p_anchor + keeps_at, tl.where(fine, new_keep, pend_keep), mask=inside)


@triton.jit
def all_finite(values):
    """Whether all of ``values [M, N]`` are finite."""
    return tl.max(tl.max(is_wrong(values), axis=1), axis=0) == 0
