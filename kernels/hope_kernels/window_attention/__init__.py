"""Grouped-query attention of new tokens over a window of cached keys and values.

On a GPU tokens of a cache go through a kernel that finds each one's row by its slot: several tokens of a row
as so many rows, so that their bits are those of single ones. Without slots, torch's own attention serves
where no gradient is asked for (its own would not be the same each time), and two batched products, as on a
CPU.
"""

import torch
from torch import Tensor

from hope_kernels.dispatch import Dispatch, on_gpu
from hope_kernels.window_attention.grouped import cached_attention
from hope_kernels.window_attention.grouped import window_attention as _grouped
from hope_kernels.window_attention.several import several_attention

MAX_FUSED_WIDTH = 256


def _serves(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, slots: Tensor) -> bool:
    return (
        on_gpu(queries, keys, values, bias, slots)
        and queries.shape[2] == 1
        and queries.shape[3] <= MAX_FUSED_WIDTH
        and queries.dtype.itemsize <= 4
        and keys.is_contiguous()
        and values.is_contiguous()
    )


decode_attention = Dispatch(
    "decode_attention", cached_attention, "hope_kernels.window_attention.fused:decode_attention", _serves
)


def window_attention(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, slots: Tensor | None = None
) -> Tensor:
    """Softmax attention over ``N`` cached positions; the softmax is fp32.

    Args:
        queries: ``[B, H, T, K]``, scaled.
        keys, values: ``[B, G, N, K]`` with ``G`` dividing ``H``; with ``slots`` slabs ``[S, G, N, K]``.
        bias: ``[B or 1, T, N]`` fp32, ``-inf`` where a query may not look.
        slots: ``[B]`` int64, the rows of the slabs; None for the first ``B`` in order.

    Returns:
        ``[B, H, T, K]`` in the queries' type.
    """
    if not queries.is_cuda and slots is None:
        return _grouped(queries, keys, values, bias)
    if slots is not None and (queries.is_cuda or queries.shape[2] == 1):
        return _token_by_token(queries, keys, values, bias, slots)
    if slots is not None:
        keys, values = keys[slots], values[slots]
    if queries.is_cuda and not torch.is_grad_enabled():
        return several_attention(queries, keys, values, bias)
    return _grouped(queries, keys, values, bias)


def _token_by_token(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, slots: Tensor) -> Tensor:
    rows, heads, tokens, width = queries.shape
    if tokens == 1:
        return decode_attention(queries, keys, values, bias, slots)
    single = queries.transpose(1, 2).reshape(rows * tokens, heads, 1, width)
    seen = bias.expand(rows, *bias.shape[1:]).reshape(rows * tokens, 1, -1)
    mixed = decode_attention(single, keys, values, seen, slots.repeat_interleave(tokens))
    return mixed.view(rows, tokens, heads, width).transpose(1, 2)


__all__ = ["decode_attention", "window_attention"]
