"""The reference Transformer: the yardstick for training speed and bits per byte.

Pre-norm blocks of RMSNorm, rotary causal attention and SwiGLU, with tied embeddings. It keeps no session
state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_model.errors import ConfigError
from hope_model.matching import fitting_width

_ROPE_BASE = 10000.0
_MATCH_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes; raises ConfigError when they cannot make a model."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.width, self.layers, self.heads, self.mlp_width)
        if min(sizes) < 1:
            raise ConfigError(f"transformer: expected sizes of at least 1, found {self}")
        if self.width % (2 * self.heads):
            raise ConfigError(f"transformer: expected a width in {2 * self.heads}s, found {self.width}")

    @property
    def parameters(self) -> int:
        """Number of trained values, the tied embedding counted once."""
        block = 4 * self.width**2 + 3 * self.width * self.mlp_width + 2 * self.width
        return self.vocab_size * self.width + self.layers * block + self.width


def matched_to(parameters: int, *, layers: int, width: int, heads: int, vocab_size: int) -> TransformerConfig:
    """The config whose count of parameters is nearest to `parameters`, by choice of mlp_width.

    Prefers widths that are multiples of 8. Raises ConfigError when none comes within 1%.
    """
    smallest = TransformerConfig(vocab_size, width, layers, heads, mlp_width=1)
    mlp_width = fitting_width(
        parameters,
        smallest=smallest.parameters,
        per_unit=3 * width * layers,
        tolerance=_MATCH_TOLERANCE,
    )
    if mlp_width is None:
        raise ConfigError(
            f"transformer: expected {layers} layers of width {width} to fit {parameters} parameters, "
            f"found {smallest.parameters} without an MLP"
        )
    return replace(smallest, mlp_width=mlp_width)


class Transformer(nn.Module):
    """Causal language model: tokens [B, T] int64 -> logits [B, T, vocab_size]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self._initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token after each of `tokens`, [B, T, vocab_size]."""
        x = self.embedding(tokens)  # [B, T, width]
        rotation = rotary_table(tokens.shape[1], self.config.width // self.config.heads, x)
        for block in self.blocks:
            x = block(x, rotation)
        return F.linear(self.norm(x), self.embedding.weight)

    def _initialise(self) -> None:
        """Normal weights; what writes to the residual stream is scaled so that its variance stays near 1."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(
                    weight, std=0.02 / math.sqrt(2 * self.config.layers) if into_residual else 0.02
                )


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); [B, T, width] -> [B, T, width]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.attention = Attention(config.width, config.heads)
        self.mlp_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.mlp = SwiGLU(config.width, config.mlp_width)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation)
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class Attention(nn.Module):
    """Causal softmax attention with rotary positions; [B, T, width] -> [B, T, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, T, K]
        y = F.scaled_dot_product_attention(rotate(q, rotation), rotate(k, rotation), v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate) * up); [B, T, width] -> [B, T, width]."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


def rotary_table(length: int, head_width: int, like: Tensor) -> Tensor:
    """Cosines and sines of position * frequency, [2, length, head_width / 2] fp32 (fp64 for fp64 models)."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    exponents = torch.arange(0, head_width, 2, device=like.device, dtype=dtype) / head_width
    angles = torch.arange(length, device=like.device, dtype=dtype)[:, None] * _ROPE_BASE**-exponents
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + K/2}) by their position's angles; [..., T, K] -> [..., T, K]."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)
