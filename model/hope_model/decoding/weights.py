"""Slow weights as decoding reads them: packed, products that share an input side by side."""

import torch
from torch import Tensor, nn

from hope_kernels.packed_linear import PackedLinear


class Joined:
    """Linear maps of one input as one product: ``x [N, D]`` fp32 -> fp32.

    A packed product gives a row the same bits in any company.

    Args:
        *layers: maps with equal inputs.
        dtype: of the operands.
    """

    def __init__(self, *layers: nn.Linear, dtype: torch.dtype) -> None:
        self._dtype = dtype
        weight = torch.cat([layer.weight.detach() for layer in layers]).to(dtype)
        biases = [
            torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias.detach()
            for layer in layers
        ]
        some = any(layer.bias is not None for layer in layers)
        self._linear = PackedLinear(weight, torch.cat(biases).to(dtype) if some else None, single=True)
        self.sizes = [len(layer.weight) for layer in layers]

    def __call__(self, x: Tensor) -> Tensor:
        return self._linear(x.to(self._dtype)).float()


def block_diagonal(matrices: Tensor) -> nn.Linear:
    """``[H, V, K]`` as one map from ``H K`` features to ``H V``, each head by its own matrix."""
    heads, values, keys = matrices.shape
    linear = nn.Linear(heads * keys, heads * values, bias=False)
    linear.weight = nn.Parameter(torch.block_diag(*matrices.detach()), requires_grad=False)
    return linear


def rms(x: Tensor, gain: Tensor | None = None) -> Tensor:
    """``x / rms(x) · gain`` along the last axis, as ``norms.RMSNorm`` has it."""
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    return normed if gain is None else normed * gain


def unit(x: Tensor) -> Tensor:
    """As ``guards.l2_normalize``, without what a gradient needs."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def sigmoid(x: Tensor) -> Tensor:
    """By operations that round the last few elements of a tensor as they do those before: torch's own sigmoid
    does not, and which elements are the last depends on who shares the step.
    """
    return 1 / (1 + torch.exp(-x))


def silu(x: Tensor) -> Tensor:
    """``x σ(x)``, as :func:`sigmoid`."""
    return x / (1 + torch.exp(-x))
