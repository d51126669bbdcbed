"""One program a row, head and some lines of its memory, which pass once; 16 tokens are taken together.

Not tuned: what it computes is the state at a boundary, whose bits a replay must find again.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hope_kernels.launch import launch

TOKENS, LINES = 16, 32
WARPS = 4
# On NVIDIA's chips fp32 products go three times through tensor cores, which keeps fp32's accuracy; without
# them they would be done by single threads, with operands that spill.


def delta_chunk_rows(
    delta: Tensor,
    base: Tensor,
    slots: Tensor,
    a: Tensor,
    w: Tensor,
    k: Tensor,
    log_alpha: Tensor,
    q: Tensor | None = None,
) -> Tensor | None:
    """As the reference, in fp32; ``K`` is at most 64 and the slab is dense."""
    rows, heads, tokens, width = k.shape
    lines = delta.shape[2]
    block = min(LINES, max(16, triton.next_power_of_2(lines)))
    read = None if q is None else torch.empty_like(w, memory_format=torch.contiguous_format)
    launch(
        chunk_lines,
        (triton.cdiv(lines, block), heads, rows),
        delta,
        base.contiguous(),
        slots,
        a.contiguous(),
        w.contiguous(),
        k.contiguous(),
        log_alpha.contiguous(),
        k if q is None else q.contiguous(),  # not looked at where nothing is read
        w if read is None else read,
        tokens,
        READS=q is not None,
        HEADS=heads,
        V=lines,
        K=width,
        TOKENS=TOKENS,
        num_stages=1,
        LINES=block,
        KEY=max(16, triton.next_power_of_2(width)),
        PRECISION="ieee" if torch.version.hip else "tf32x3",
        num_warps=WARPS,
    )
    return read


@triton.jit
def chunk_lines(
    delta,
    base,
    slots,
    a,
    w,
    k,
    log_alpha,
    q,
    read,
    tokens,
    READS: tl.constexpr,
    HEADS: tl.constexpr,
    V: tl.constexpr,
    K: tl.constexpr,
    TOKENS: tl.constexpr,
    LINES: tl.constexpr,
    KEY: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``(I - L) U = R``, solved token by token; then what was read, and ``D <- α D + Uᵀ k``."""
    i_head = tl.program_id(1)
    i_row = tl.program_id(2).to(tl.int64)
    i_unit = i_row * HEADS + i_head
    slot = tl.load(slots + i_row)
    i_line = tl.program_id(0) * LINES + tl.arange(0, LINES)
    i_key = tl.arange(0, KEY)
    of_memory = i_line[:, None] * K + i_key[None, :]
    has_memory = (i_line < V)[:, None] & (i_key < K)[None, :]
    p_delta = delta + (slot * HEADS + i_head) * V * K + of_memory
    if slot < 0:
        if READS:
            for first in range(0, tokens, TOKENS):
                i_token = first + tl.arange(0, TOKENS)
                of_lines = (i_unit * tokens + i_token[:, None]) * V + i_line[None, :]
                has_lines = (i_token < tokens)[:, None] & (i_line < V)[None, :]
                tl.store(read + of_lines, tl.zeros([TOKENS, LINES], tl.float32), mask=has_lines)
        return
    b_delta = tl.load(p_delta, mask=has_memory, other=0.0)
    for first in range(0, tokens, TOKENS):
        i_token = first + tl.arange(0, TOKENS)
        of_keys = (i_unit * tokens + i_token[:, None]) * K + i_key[None, :]
        of_lines = (i_unit * tokens + i_token[:, None]) * V + i_line[None, :]
        has_keys = (i_token < tokens)[:, None] & (i_key < K)[None, :]
        has_lines = (i_token < tokens)[:, None] & (i_line < V)[None, :]
        # Tokens beyond the last write nothing and keep all.
        b_log = tl.load(log_alpha + i_unit * tokens + i_token, mask=i_token < tokens, other=0.0)
        until = tl.cumsum(b_log, axis=0)
        before = until - b_log
        last = tl.sum(b_log, axis=0)
        past = i_token[:, None] > i_token[None, :]
        decay = tl.exp(tl.where(past, before[:, None] - until[None, :], float("-inf")))
        faded = tl.exp(before)[:, None]
        b_base = tl.load(base + i_head * V * K + of_memory, mask=has_memory, other=0.0)
        b_k = tl.load(k + of_keys, mask=has_keys, other=0.0)
        b_a = tl.load(a + of_keys, mask=has_keys, other=0.0)
        lower = tl.dot(b_a, tl.trans(b_k), input_precision=PRECISION) * decay
        b_u = tl.load(w + of_lines, mask=has_lines, other=0.0)
        b_u += tl.dot(b_a, tl.trans(b_base), input_precision=PRECISION)
        b_u += faded * tl.dot(b_a, tl.trans(b_delta), input_precision=PRECISION)
        for step in range(1, TOKENS):
            own = tl.arange(0, TOKENS) == step
            weights = tl.sum(tl.where(own[:, None], lower, 0.0), axis=0)
            added = tl.sum(weights[:, None] * b_u, axis=0)
            b_u += tl.where(own[:, None], added[None, :], 0.0)
        if READS:
            b_q = tl.load(q + of_keys, mask=has_keys, other=0.0)
            scores = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * decay
            b_read = tl.dot(scores, b_u, input_precision=PRECISION)
            b_read += tl.dot(b_q, tl.trans(b_base), input_precision=PRECISION)
            b_read += faded * tl.dot(b_q, tl.trans(b_delta), input_precision=PRECISION)
            tl.store(read + of_lines, b_read, mask=has_lines)
        b_left = b_u * tl.exp(last - until)[:, None]
        b_delta = tl.exp(last) * b_delta + tl.dot(tl.trans(b_left), b_k, input_precision=PRECISION)
    tl.store(p_delta, b_delta, mask=has_memory)
