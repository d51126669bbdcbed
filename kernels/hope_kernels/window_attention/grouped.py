"""Grouped-query attention as two batched products: the heads that share keys are rows of one matrix."""

import torch
from torch import Tensor

from hope_kernels.company import in_company


def window_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention over ``S`` cached positions; the softmax is fp32.

    On a CPU with bf16 a query's bits depend neither on ``B``, ``T`` nor on how many masked positions follow
    the last visible one (checked by ``hope_kernels.row_invariance``).

    Args:
        queries: ``[B, H, T, K]``, scaled.
        keys, values: ``[B, G, S, K]`` with ``G`` dividing ``H``, in the queries' type; dense ones are not
            copied.
        bias: ``[B or 1, T, S]`` fp32, ``-inf`` where a query may not look.

    Returns:
        ``[B, H, T, K]`` in the queries' type.
    """
    rows, heads, tokens, width = queries.shape
    groups, seen = keys.shape[1], keys.shape[2]
    share = heads // groups
    together = queries.reshape(rows * groups, share * tokens, width)
    scores = torch.bmm(in_company(together), _flat(keys).mT)[:, : share * tokens]
    scores = scores.view(rows, groups, share, tokens, seen) + bias[:, None, None]
    weights = torch.softmax(scores, dim=-1).to(values.dtype).view(rows * groups, share * tokens, seen)
    return torch.bmm(weights, _flat(values)).view(rows, heads, tokens, width)


def _flat(x: Tensor) -> Tensor:
    """``[B, G, S, K] -> [B G, S, K]``, a view of a cache where it can be."""
    return x.flatten(0, 1)


def cached_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, slots: Tensor) -> Tensor:
    """:func:`window_attention` over rows ``slots [B]`` of slabs ``[S, G, N, K]``; zeros for slot -1."""
    present = slots.clamp_min(0)
    mixed = window_attention(queries, keys[present], values[present], bias)
    return torch.where((slots >= 0)[:, None, None, None], mixed, 0)
