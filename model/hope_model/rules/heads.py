"""What most rules share around their memory: heads of queries, keys and values, a decay, the way out."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_model.config import HopeConfig
from hope_model.convolution import CausalConvolution
from hope_model.state import TensorSpec


class HeadInputs(nn.Module):
    """``x [B, T, D]`` -> queries, keys, values ``[B, H, T, K]``: one projection, a short convolution (E5).

    Its last ``conv_width - 1`` inputs are state, ``window``.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.inputs = nn.Linear(config.width, 3 * config.width, bias=False)
        self.convolution = CausalConvolution(3 * config.width, config.conv_width)
        self._window = (config.conv_width - 1, 3 * config.width)

    def spec(self, level: str) -> TensorSpec:
        return TensorSpec("window", level, self._window)

    def forward(self, x: Tensor, window: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> ``(q, k, v, window')`` in the window's type."""
        inner, window = self.convolution(self.inputs(x), window)
        q, k, v = (split_heads(part, self.heads) for part in inner.to(window.dtype).chunk(3, dim=-1))
        return q, k, v, window


class HeadOutput(nn.Module):
    """``O(rms_head(o) ⊙ gain [⊙ silu(G x)])``: heads ``[B, H, T, V]``, the layer's input -> ``[B, T, D]``."""

    def __init__(self, config: HopeConfig, *, gated: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(config.width))
        self.gate = nn.Linear(config.width, config.width, bias=False) if gated else None
        self.output = nn.Linear(config.width, config.width, bias=False)

    def forward(self, read: Tensor, x: Tensor) -> Tensor:
        normed = read * torch.rsqrt(read.square().mean(-1, keepdim=True) + 1e-6)
        out = join_heads(normed) * self.gain
        if self.gate is not None:
            out = out * F.silu(self.gate(x).to(out.dtype))
        y: Tensor = self.output(out)
        return y


class HeadRate(nn.Module):
    """A number from 0 to ``highest`` per head and token: ``highest σ(w x + bias)``, ``[B, H, T]``."""

    def __init__(self, config: HopeConfig, *, bias: float = 0.0, highest: float = 1.0) -> None:
        super().__init__()
        self.highest = highest
        self.rate = nn.Linear(config.width, config.heads, bias=False)
        self.rate_bias = nn.Parameter(torch.full((config.heads,), bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.highest * torch.sigmoid(self._raw(x))

    def log(self, x: Tensor) -> Tensor:
        """The logarithm of the share of the highest."""
        return F.logsigmoid(self._raw(x))

    def _raw(self, x: Tensor) -> Tensor:
        raw: Tensor = self.rate(x).to(self.rate_bias.dtype) + self.rate_bias
        return raw.mT


class HeadDecay(nn.Module):
    """``log α = -exp(a) softplus(w x + d)`` per head and token, ``[B, H, T]`` (E34)."""

    def __init__(self, config: HopeConfig, heads: int | None = None) -> None:
        super().__init__()
        heads = config.heads if heads is None else heads
        self.decay = nn.Linear(config.width, heads, bias=False)
        steps = torch.exp(torch.linspace(math.log(1e-3), math.log(1e-1), heads))
        self.rate_bias = nn.Parameter(torch.log(torch.expm1(steps)))
        self.log_rate = nn.Parameter(torch.log(torch.linspace(1.0, 16.0, heads)))

    def forward(self, x: Tensor) -> Tensor:
        step = F.softplus(self.decay(x).to(self.rate_bias.dtype) + self.rate_bias)
        return (-self.log_rate.exp() * step).mT


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[B, T, D] -> [B, H, T, D / H]``."""
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """``[B, H, T, V] -> [B, T, H V]``."""
    return x.transpose(1, 2).flatten(2)
