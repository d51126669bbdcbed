"""Grouped-query attention of several tokens by torch's own fused kernels."""

from torch import Tensor
from torch.nn import functional as F


def several_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """As the reference, in the queries' type: ``[B, H, T, K]``.

    Heads that share keys become more queries of one head, since not every kernel of torch's has groups.
    """
    rows, heads, tokens, width = queries.shape
    groups = keys.shape[1]
    share = heads // groups
    together = queries.reshape(rows, groups, share * tokens, width)
    mask = bias.to(queries.dtype).repeat(1, share, 1)[:, None]
    mixed = F.scaled_dot_product_attention(together, keys, values, attn_mask=mask, scale=1.0)
    return mixed.reshape(rows, heads, tokens, width)
