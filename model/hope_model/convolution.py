"""A short causal convolution whose past inputs are state."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_kernels import causal_convolution


class CausalConvolution(nn.Module):
    """Depthwise, width ``W``: ``y_t = silu(sum_j c_j x_{t-W+1+j})`` (E5).

    Its window is the last ``W - 1`` inputs.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.zeros(width, features))
        with torch.no_grad():
            self.taps[-1] = 1.0
            self.taps[:-1].normal_(std=0.1)

    def step(self, x: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
        """``x [B, D]``, ``window [B, W-1, D]`` -> ``(y [B, D], window')``."""
        y, window = self(x[:, None], window)
        return y[:, 0], window

    def forward(self, x: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
        """``x [B, T, D]``, ``window [B, W-1, D]`` -> ``(y [B, T, D], window')``."""
        past = torch.cat((window, x.to(window.dtype)), dim=1)
        return F.silu(causal_convolution(past, self.taps)), past[:, x.shape[1] :]
