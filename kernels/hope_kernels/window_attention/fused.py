"""One program a row and group of heads: its keys and values pass once, with the softmax taken on the way."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hope_kernels.launch import launch

BLOCK = 64
"""Positions that are looked at together."""


def decode_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, slots: Tensor) -> Tensor:
    """As the reference, for one token a row: ``queries [B, H, 1, K]``; slabs are dense."""
    rows, heads, _, width = queries.shape
    groups, span = keys.shape[1], keys.shape[2]
    mixed = torch.empty(rows, heads, 1, width, dtype=queries.dtype, device=queries.device)
    launch(
        attend,
        (groups, rows),
        queries.contiguous(),
        keys,
        values,
        bias.contiguous(),
        slots,
        mixed,
        span,
        span if len(bias) > 1 else 0,
        GROUPS=groups,
        SHARE=heads // groups,
        K=width,
        HEADS=max(16, triton.next_power_of_2(heads // groups)),
        WIDTH=max(16, triton.next_power_of_2(width)),
        POSITIONS=BLOCK,
    )
    return mixed


@triton.autotune(
    configs=[triton.Config({}, num_warps=4, num_stages=stages) for stages in (1, 2)],
    key=["GROUPS", "SHARE", "K"],
)
@triton.jit
def attend(
    queries,
    keys,
    values,
    bias,
    slots,
    mixed,
    span,
    bias_row,
    GROUPS: tl.constexpr,
    SHARE: tl.constexpr,
    K: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """``softmax(q k + bias) v`` for the heads that share a group's keys, padded to a tile's size."""
    i_group = tl.program_id(0)
    i_row = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + i_row)
    heads = tl.arange(0, HEADS)
    width = tl.arange(0, WIDTH)
    at = (i_row * GROUPS + i_group) * SHARE * K + heads[:, None] * K + width[None, :]
    own = (heads < SHARE)[:, None] & (width < K)[None, :]
    if slot < 0:
        tl.store(mixed + at, tl.zeros([HEADS, WIDTH], mixed.dtype.element_ty), mask=own)
        return
    b_q = tl.load(queries + at, mask=own, other=0.0)
    start = (slot * GROUPS + i_group) * span * K
    top = tl.full([HEADS], float("-inf"), tl.float32)
    total = tl.zeros([HEADS], tl.float32)
    b_mixed = tl.zeros([HEADS, WIDTH], tl.float32)
    for first in range(0, span, POSITIONS):
        places = first + tl.arange(0, POSITIONS)
        inside = places < span
        of_cache = start + places[:, None] * K + width[None, :]
        held = inside[:, None] & (width < K)[None, :]
        b_k = tl.load(keys + of_cache, mask=held, other=0.0)
        b_bias = tl.load(bias + i_row * bias_row + places, mask=inside, other=float("-inf"))
        scores = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") + b_bias[None, :]
        higher = tl.maximum(top, tl.max(scores, axis=1), propagate_nan=tl.PropagateNan.ALL)
        level = tl.where(higher == float("-inf"), 0.0, higher)  # nothing in sight yet
        weights = tl.exp(scores - level[:, None])
        faded = tl.exp(top - level)
        total = total * faded + tl.sum(weights, axis=1)
        b_v = tl.load(values + of_cache, mask=held, other=0.0)
        b_mixed = b_mixed * faded[:, None]
        b_mixed = tl.dot(weights.to(b_v.dtype), b_v, b_mixed, input_precision="ieee")
        top = higher
    b_mixed = b_mixed / total[:, None]
    tl.store(mixed + at, b_mixed.to(mixed.dtype.element_ty), mask=own)
