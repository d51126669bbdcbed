"""Whether a row's bits depend on its company: a check of this machine's kernels, at given sizes.

A session that is replayed is read in other cuts and other batches than at first, and must come to the same
bits. That rests on the products below, in the type that is served.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from hope_kernels.frozen_linear import FrozenLinear
from hope_kernels.low_rank_read import low_rank_product
from hope_kernels.packed_linear import PackedLinear
from hope_kernels.window_attention import window_attention

HOST = torch.device("cpu")
BATCH, TOKENS = 3, 64
SIZES = (1, 2, 7, 33, TOKENS)
"""Tokens that share a call."""


Call = Callable[[slice, slice], Tensor]
"""Some rows of a batch and some of their tokens -> what comes out for these, ``[B, T, ...]``."""


def linear_holds(columns: int, rows: int) -> bool:
    """Of ``PackedLinear``, weights ``[rows, columns]``, on ``[B, T, columns]``: with any ``B`` and ``T``."""
    normal = _normal()
    x, weight, bias = normal(BATCH, TOKENS, columns), normal(rows, columns), normal(rows)

    def holds(linear: PackedLinear) -> bool:
        return _equal(linear(x), lambda batch, tokens: linear(x[batch, tokens]))

    return holds(PackedLinear(weight)) and holds(PackedLinear(weight, bias))


def served_linear_holds(linear: FrozenLinear) -> bool:
    """Of one that is served, as it is: a check short enough for every start."""
    x = _normal(linear.device)(1, _rows_that_show(linear.rows), linear.columns).to(linear.dtype)
    whole = linear(x)
    return all(
        torch.equal(linear(part), expected)
        for size in (1, 2, 7, 33)
        for part, expected in zip(x.split(size, 1), whole.split(size, 1), strict=True)
    )


def product_holds(columns: int, rows: int) -> bool:
    """Of ``low_rank_product``, ``[B, T, columns] @ [B, columns, rows]``: with any ``B`` and ``T``."""
    normal = _normal()
    x, y = normal(BATCH, TOKENS, columns), normal(BATCH, columns, rows)
    return _equal(low_rank_product(x, y), lambda batch, tokens: low_rank_product(x[batch, tokens], y[batch]))


def attention_holds(heads: int, groups: int, width: int, span: int) -> bool:
    """Of ``window_attention`` over ``span`` positions, the later half of them masked: with any ``B`` and
    ``T``, and with all or none of those that are masked.
    """
    normal = _normal()
    queries = normal(BATCH, heads, TOKENS, width) * width**-0.5
    keys, values = normal(BATCH, groups, span, width), normal(BATCH, groups, span, width)
    middle = span // 2
    last = torch.arange(middle - TOKENS, middle).clamp_min(0)[:, None]
    bias = torch.zeros(BATCH, TOKENS, span).masked_fill_(torch.arange(span) > last, -torch.inf)

    def attend(batch: slice, tokens: slice, end: int = span) -> Tensor:
        seen = keys[batch, :, :end], values[batch, :, :end]
        return window_attention(queries[batch, :, tokens], *seen, bias[batch, tokens, :end]).transpose(1, 2)

    whole = attend(slice(BATCH), slice(TOKENS))
    return _equal(whole, attend) and _equal(whole, partial(attend, end=middle))


def served_attention_holds(
    heads: int, groups: int, width: int, spans: Sequence[int], device: torch.device = HOST
) -> bool:
    """Of ``window_attention`` over any of ``spans`` positions (ascending): as short a check."""
    normal, tokens = _normal(device), min(34, spans[0])
    queries = normal(2, heads, tokens, width) * width**-0.5
    keys, values = normal(2, groups, spans[-1], width), normal(2, groups, spans[-1], width)

    def holds(seen: int) -> bool:
        last = torch.arange(seen - tokens, seen)[:, None]
        bias = torch.zeros(1, tokens, spans[-1]).masked_fill_(torch.arange(spans[-1]) > last, -torch.inf)
        bias = bias.to(device)

        def attend(end: int, rows: int, size: int) -> Tensor:
            held = keys[:rows, :, :end], values[:rows, :, :end]
            slots: tuple[Tensor, ...] = ()
            if device.type == "cuda":  # where rows of a whole cache are found by their slot
                held = held[0].contiguous(), held[1].contiguous()
                slots = (torch.arange(rows, device=device),)
            parts = [
                window_attention(part, *held, mask[:, :, :end], *slots)
                for part, mask in zip(queries[:rows].split(size, 2), bias.split(size, 1), strict=True)
            ]
            return torch.cat(parts, 2)

        whole = attend(seen, 2, tokens)
        ends = {seen, spans[-1]}
        cuts = product(ends, (1, 2), (1, 7, 33, tokens))
        return all(torch.equal(attend(end, rows, size), whole[:rows]) for end, rows, size in cuts)

    return all(holds(seen) for seen in spans)


def _rows_that_show(outputs: int) -> int:
    """Another order changes one of about 20,000 sums in bf16: some hundred thousand show it."""
    return 66 if outputs < 8192 else 34


def _equal(whole: Tensor, call: Call) -> bool:
    return all(torch.equal(call(*part), whole[part]) for part in _parts())


def _parts() -> Iterator[tuple[slice, slice]]:
    for rows, tokens in product((1, BATCH), SIZES):
        for row, token in product(range(0, BATCH, rows), range(0, TOKENS, tokens)):
            yield slice(row, row + rows), slice(token, token + tokens)


def _normal(device: torch.device = HOST) -> Callable[..., Tensor]:
    """Random values in bf16, the same in every call and on every device."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator).to(device=device, dtype=torch.bfloat16)
