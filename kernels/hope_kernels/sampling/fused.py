"""One program a row. Nothing is sorted: where a sorted list would be cut is found by halving a range of keys.

A token's key orders by logit, then by token, so that no two are equal. Each question is then how much weight
lies above a key: that of ``k`` tokens, of ``p`` of the weight, of ``u`` of what is left. Every halving is a
pass over the row's logits, which are in the cache by then.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hope_kernels.guards import is_wrong
from hope_kernels.launch import launch

TILE = 4096
WARPS = 16
"""Fixed, as sums of weights depend on both."""


def choose_tokens(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, u: Tensor, slots: Tensor
) -> Tensor:
    """As the reference, with weights in fp32; a vocabulary of at most 2^20."""
    rows, vocab = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    launch(
        choose_row,
        (rows,),
        logits.contiguous(),
        temperature,
        top_k,
        top_p,
        u,
        slots,
        tokens,
        vocab,
        TILE=min(TILE, max(2, triton.next_power_of_2(vocab))),
        num_warps=WARPS,
    )
    return tokens


@triton.jit
def choose_row(logits, temperature, top_k, top_p, u, slots, tokens, vocab, TILE: tl.constexpr):
    """``least`` is the lowest key that is kept; two searches raise it, and the last one lands on a token."""
    i_row = tl.program_id(0).to(tl.int64)
    if tl.load(slots + i_row) < 0:
        tl.store(tokens + i_row, 0)
        return
    p_logits = logits + i_row * vocab
    tile = tl.arange(0, TILE)
    b_most = tl.full([TILE], -(2**63), tl.int64)
    b_least = tl.full([TILE], 2**63 - 1, tl.int64)
    b_best = tl.full([TILE], float("-inf"), tl.float32)
    b_wrong = tl.zeros([TILE], tl.int32)
    for start in range(0, vocab, TILE):
        inside = start + tile < vocab
        b_logits = tl.load(p_logits + start + tile, mask=inside, other=0.0)
        b_keys = keys_of(b_logits, start + tile)
        b_wrong = tl.maximum(b_wrong, is_wrong(b_logits))
        b_most = tl.maximum(b_most, tl.where(inside, b_keys, -(2**63)))
        b_least = tl.minimum(b_least, tl.where(inside, b_keys, 2**63 - 1))
        b_best = tl.maximum(b_best, tl.where(inside, b_logits, float("-inf")))
    if tl.max(b_wrong, axis=0) > 0:
        tl.store(tokens + i_row, -1)
        return
    most = tl.max(b_most, axis=0)
    least = tl.min(b_least, axis=0)
    best = tl.max(b_best, axis=0)
    heat = tl.load(temperature + i_row)
    chosen = most
    if heat > 0.0:
        count = tl.load(top_k + i_row)
        if (count > 0) & (count < vocab):
            # At infinite heat every token counts as one.
            rest = (count - 1).to(tl.float32)
            least = lowest(p_logits, best, float("inf"), rest, least, most, least, vocab, True, TILE)
        total = weight_from(p_logits, best, heat, least - 1, least, vocab, TILE)
        share = tl.load(top_p + i_row)
        if not (share >= 1.0):
            least = lowest(p_logits, best, heat, share * total, least, most, least, vocab, False, TILE)
            total = weight_from(p_logits, best, heat, least - 1, least, vocab, TILE)
        wanted = tl.load(u + i_row) * total
        # Below the whole weight, so that no token is chosen that has none.
        wanted = tl.where(wanted >= total, total * (1.0 - 2.0**-23), wanted)
        chosen = lowest(p_logits, best, heat, wanted, least, most, least, vocab, True, TILE)
    tl.store(tokens + i_row, (2**20 - 1) - (chosen & (2**20 - 1)))


@triton.jit
def lowest(
    p_logits, best, heat, weight, low, high, least, vocab, INCLUSIVE: tl.constexpr, TILE: tl.constexpr
):
    """The lowest key above which lies at most (if not ``INCLUSIVE``: less than) ``weight``: a token's own."""
    while low < high:
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        above = weight_from(p_logits, best, heat, middle, least, vocab, TILE)
        if above < weight or (INCLUSIVE and above == weight):
            high = middle
        else:
            low = middle + 1
    return high


@triton.jit
def weight_from(p_logits, best, heat, key, least, vocab, TILE: tl.constexpr):
    """Weight of the kept tokens above ``key``."""
    tile = tl.arange(0, TILE)
    b_weight = tl.zeros([TILE], tl.float32)
    for start in range(0, vocab, TILE):
        inside = start + tile < vocab
        b_logits = tl.load(p_logits + start + tile, mask=inside, other=0.0)
        # keys_of in place: a call in every pass of a search would triple its time in the interpreter.
        bits = (b_logits + 0.0).to(tl.int32, bitcast=True)
        order = tl.where(bits < 0, -(2**31) - bits, bits)
        b_keys = (order.to(tl.int64) << 20) | (2**20 - 1 - start - tile).to(tl.int64)
        counted = inside & (b_keys > key) & (b_keys >= least)
        b_weight += tl.where(counted, tl.exp((b_logits - best) / heat), 0.0)
    return tl.sum(b_weight, axis=0)


@triton.jit
def keys_of(values, tokens):
    """Integers in the order of the values, both zeros alike; of equal values the lower token is higher."""
    bits = (values + 0.0).to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, -(2**31) - bits, bits)
    return (order.to(tl.int64) << 20) | (2**20 - 1 - tokens).to(tl.int64)
