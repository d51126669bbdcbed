"""Plain torch form of grouped-query attention."""

import torch
from torch import Tensor


def window_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention, query head by query head, in fp32.

    Args:
        queries: ``[B, H, T, K]``, scaled.
        keys, values: ``[B, G, S, K]`` with ``G`` dividing ``H``: heads ``g H/G ...`` share group ``g``.
        bias: ``[B or 1, T, S]`` fp32, ``-inf`` where a query may not look.

    Returns:
        ``[B, H, T, K]`` fp32.
    """
    share = queries.shape[1] // keys.shape[1]
    heads = []
    for head in range(queries.shape[1]):
        k, v = keys[:, head // share].float(), values[:, head // share].float()
        scores = queries[:, head].float() @ k.mT
        heads.append(torch.softmax(scores + bias, dim=-1) @ v)
    return torch.stack(heads, dim=1)


def cached_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, slots: Tensor) -> Tensor:
    """:func:`window_attention` over rows ``slots [B]`` of slabs ``[S, G, N, K]``; zeros for slot -1."""
    present = slots.clamp_min(0)
    mixed = window_attention(queries, keys[present], values[present], bias)
    return torch.where((slots >= 0)[:, None, None, None], mixed, 0).to(queries.dtype)
