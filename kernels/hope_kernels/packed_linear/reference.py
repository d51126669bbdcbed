"""Plain torch form of a linear map with frozen weights."""

from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``y = x W^T + b``: ``x [..., K]``, ``weight [N, K]`` -> ``[..., N]``, in fp32."""
    y = x.float() @ weight.float().mT
    return y if bias is None else y + bias.float()
