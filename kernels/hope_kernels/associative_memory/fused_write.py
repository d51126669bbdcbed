"""One program a row: one that is not due only keeps its key, one that is due passes its matrices four times.

Three of them take norms, which each bound what comes next; what was loaded once is in the cache by then. A
level is due once in its period, so that the program that every token starts is the one that does nothing.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hope_kernels.associative_memory.reference import Rule
from hope_kernels.guards import bound, is_wrong
from hope_kernels.launch import launch

TILE = 2048
WARPS = 8
"""Fixed, as the order in which norms are summed depends on both."""
SGD, MOMENTUM, ADAM = 0, 1, 2
_RULES = {"sgd": SGD, "momentum": MOMENTUM, "adam": ADAM}


def associative_write(
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
) -> Tensor:
    """As the reference, in fp32; slabs are dense."""
    width = last_key.shape[1]
    applied = torch.empty(len(slots), dtype=torch.bool, device=delta.device)
    launch(
        write_rows,
        (len(slots),),
        delta,
        gradient,
        last_key,
        slots,
        due,
        key.contiguous(),
        delta if first is None else first,  # a rule without moments does not look at them
        delta if second is None else second,
        slots if count is None else count,
        step_length,
        retention,
        applied,
        RULE=_RULES[rule.name],
        BETA1=rule.beta1,
        BETA2=rule.beta2,
        LOG_BETA1=math.log(rule.beta1),
        LOG_BETA2=math.log(rule.beta2),
        EPSILON=rule.epsilon,
        MAX_STEP=max_step,
        MAX_NORM=max_norm,
        M=width,
        KEY=max(2, triton.next_power_of_2(width)),
        TILE=min(TILE, max(2, triton.next_power_of_2(width * width))),
        num_warps=WARPS,
    )
    return applied


@triton.jit
def write_rows(
    delta,
    gradient,
    last_key,
    slots,
    due,
    key,
    first,
    second,
    count,
    step_length,
    retention,
    applied,
    RULE: tl.constexpr,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    LOG_BETA1: tl.constexpr,
    LOG_BETA2: tl.constexpr,
    EPSILON: tl.constexpr,
    MAX_STEP: tl.constexpr,
    MAX_NORM: tl.constexpr,
    M: tl.constexpr,
    KEY: tl.constexpr,
    TILE: tl.constexpr,
):
    """``g = G / |G|``; ``u = rule(g)``, bounded; ``ΔW <- ρ ΔW - u``, bounded; ``G <- 0``."""
    i_row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + i_row)
    tl.store(applied + i_row, False)
    if slot < 0:
        return
    wide = tl.arange(0, KEY)
    b_key = tl.load(key + i_row * M + wide, mask=wide < M, other=0.0)
    tl.store(last_key + slot * M + wide, b_key, mask=wide < M)
    if tl.load(due + i_row) == 0:
        return
    tile = tl.arange(0, TILE)
    start = slot * M * M
    rate = MAX_STEP * tl.sigmoid(tl.load(step_length))
    keep = tl.sigmoid(tl.load(retention))
    unbias1 = 1.0
    unbias2 = 1.0
    if RULE == 2:
        writes = (tl.load(count + slot) + 1).to(tl.float64)
        unbias1 = (1.0 / (1.0 - tl.exp(writes * LOG_BETA1))).to(tl.float32)
        unbias2 = (1.0 / (1.0 - tl.exp(writes * LOG_BETA2))).to(tl.float32)

    b_squares = tl.zeros([TILE], tl.float32)
    for offset in range(0, M * M, TILE):
        inside = offset + tile < M * M
        b_gradient = tl.load(gradient + start + offset + tile, mask=inside, other=0.0)
        b_squares += b_gradient * b_gradient
    unit = 1.0 / tl.sqrt(tl.sum(b_squares, axis=0) + 1e-8)

    b_squares = tl.zeros([TILE], tl.float32)
    for offset in range(0, M * M, TILE):
        at = start + offset + tile
        inside = offset + tile < M * M
        b_update, _, _ = updated(
            gradient, first, second, at, inside, unit, rate, unbias1, unbias2, RULE, BETA1, BETA2, EPSILON
        )
        b_squares += b_update * b_update
    factor = bound(tl.sum(b_squares, axis=0), MAX_STEP)

    b_squares = tl.zeros([TILE], tl.float32)
    b_wrong = tl.zeros([TILE], tl.int32)
    for offset in range(0, M * M, TILE):
        at = start + offset + tile
        inside = offset + tile < M * M
        b_update, b_first, b_second = updated(
            gradient, first, second, at, inside, unit, rate, unbias1, unbias2, RULE, BETA1, BETA2, EPSILON
        )
        b_moved = keep * tl.load(delta + at, mask=inside, other=0.0) - factor * b_update
        b_squares += b_moved * b_moved
        b_wrong = tl.maximum(b_wrong, is_wrong(b_moved))
        b_wrong = tl.maximum(b_wrong, tl.maximum(is_wrong(b_first), is_wrong(b_second)))
    shrink = bound(tl.sum(b_squares, axis=0), MAX_NORM)
    fine = tl.max(b_wrong, axis=0) == 0

    for offset in range(0, M * M, TILE):
        at = start + offset + tile
        inside = offset + tile < M * M
        b_update, b_first, b_second = updated(
            gradient, first, second, at, inside, unit, rate, unbias1, unbias2, RULE, BETA1, BETA2, EPSILON
        )
        b_moved = keep * tl.load(delta + at, mask=inside, other=0.0) - factor * b_update
        if fine:
            tl.store(delta + at, shrink * b_moved, mask=inside)
            if RULE >= 1:
                tl.store(first + at, b_first, mask=inside)
            if RULE == 2:
                tl.store(second + at, b_second, mask=inside)
        tl.store(gradient + at, tl.zeros([TILE], tl.float32), mask=inside)
    tl.store(applied + i_row, fine)
    if RULE == 2:
        tl.store(count + slot, tl.load(count + slot) + fine.to(tl.int64))


@triton.jit
def updated(
    gradient,
    first,
    second,
    at,
    inside,
    unit,
    rate,
    unbias1,
    unbias2,
    RULE: tl.constexpr,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    EPSILON: tl.constexpr,
):
    """The update of some elements before its bound, and their moments after it (0 where there are none)."""
    direction = unit * tl.load(gradient + at, mask=inside, other=0.0)
    if RULE == 0:
        return rate * direction, tl.zeros_like(direction), tl.zeros_like(direction)
    b_first = BETA1 * tl.load(first + at, mask=inside, other=0.0) + (1.0 - BETA1) * direction
    if RULE == 1:
        return rate * b_first, b_first, tl.zeros_like(direction)
    b_second = BETA2 * tl.load(second + at, mask=inside, other=0.0) + (1.0 - BETA2) * direction * direction
    root = tl.sqrt(b_second * unbias2) + EPSILON
    return rate * (b_first * unbias1) / root, b_first, b_second
