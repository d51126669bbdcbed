"""Grouped-query attention of new tokens over a window of cached keys and values.

One token a row goes through a kernel that finds each row's cache by its slot; several go through torch's own
attention on a GPU, and through two batched products on a CPU.
"""

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
    if queries.shape[2] == 1 and slots is not None:
        return decode_attention(queries, keys, values, bias, slots)
    if slots is not None:
        keys, values = keys[slots], values[slots]
    if queries.is_cuda:
        return several_attention(queries, keys, values, bias)
    return _grouped(queries, keys, values, bias)


__all__ = ["decode_attention", "window_attention"]
