"""The depthwise causal convolution with a backward of its own: every tap adds in place, nothing is padded."""

from typing import Any

import torch
from torch import Tensor


def causal_convolution(past: Tensor, taps: Tensor) -> Tensor:
    """``y_t = sum_j taps_j * past_{t + j}``: ``past [B, T + W - 1, D]``, ``taps [W, D]`` -> ``[B, T, D]``."""
    y: Tensor = _Convolution.apply(past, taps)  # type: ignore[no-untyped-call]
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, past: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(past, taps)
        tokens = past.shape[1] - taps.shape[0] + 1
        y = past[:, :tokens] * taps[0]
        for j in range(1, len(taps)):
            y.addcmul_(past[:, j : j + tokens], taps[j])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        past, taps = ctx.saved_tensors
        tokens = grad.shape[1]
        grad_past = torch.zeros_like(past)
        for j in range(len(taps)):
            grad_past[:, j : j + tokens].addcmul_(grad, taps[j])
        grad_taps = [(grad * past[:, j : j + tokens]).sum((0, 1)) for j in range(len(taps))]
        return grad_past, torch.stack(grad_taps)
