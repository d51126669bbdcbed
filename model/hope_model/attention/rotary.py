"""Rotary position embedding: angles per position, and turning queries and keys by them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hope_model.attention.config import BackboneConfig, RopeScaling


class Rotary:
    """Cosines and sines of all positions up to a bound, in fp32.

    Angles are computed in fp64, so that late positions are exact to fp32, and by numpy: the first cosines
    that torch computes in a process, on several threads, are now and then right to 27 bits only.
    """

    def __init__(self, config: BackboneConfig, positions: int, device: torch.device) -> None:
        half = torch.arange(0, config.head_width, 2, dtype=torch.float64)
        frequencies = config.rope_theta ** -(half / config.head_width)
        if config.rope_scaling is not None:
            frequencies = _scaled(frequencies, config.rope_scaling)
        angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
        cosines, sines = (torch.from_numpy(of(angles.numpy())) for of in (np.cos, np.sin))
        self.cosines = cosines.float().repeat(1, 2).to(device)
        self.sines = torch.cat((-sines, sines), dim=1).float().to(device)
        scale = torch.ones(config.heads + config.kv_heads, 1)
        scale[: config.heads] = config.head_width**-0.5
        self._scale = scale.to(device)

    def at(self, positions: Tensor) -> Turn:
        """``positions [B, T]`` int64 -> what :func:`rotate` multiplies queries and keys with.

        Queries come out scaled by ``K ** -0.5``, in the same products.
        """
        cosines, sines = self.cosines[positions][:, :, None], self.sines[positions][:, :, None]
        return cosines * self._scale, sines * self._scale


Turn = tuple[Tensor, Tensor]
"""Cosines and signed sines, ``[B, T, H + G, K]``: query heads first."""


def rotate(heads: Tensor, turn: Turn) -> Tensor:
    """Turn ``heads [B, T, H + G, K]`` by the angles of their positions, in fp32; the type stays."""
    cosines, sines = turn
    values = heads.float()
    low, high = values.chunk(2, dim=-1)
    return torch.addcmul(values * cosines, torch.cat((high, low), dim=-1), sines).to(heads.dtype)


def _scaled(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3: short wavelengths stay, long ones are divided by the factor, between them it is blended."""
    wavelengths = 2 * math.pi / frequencies
    low = scaling.original_context / scaling.low_freq_factor
    high = scaling.original_context / scaling.high_freq_factor
    blend = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - blend) * frequencies / scaling.factor + blend * frequencies
    slowed = torch.where(wavelengths > low, frequencies / scaling.factor, frequencies)
    return torch.where((wavelengths <= low) & (wavelengths >= high), between, slowed)
