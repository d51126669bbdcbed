"""The tables of angles: every entry is the cosine or sine itself, rounded once to fp32."""

from __future__ import annotations

import math

import torch
from tests.model.attention.tiny import backbone_config

from hope_model.attention.rotary import Rotary

POSITIONS = 2432


def test_every_entry_is_rounded_once() -> None:
    config = backbone_config(head_width=64)
    rotary = Rotary(config, POSITIONS, torch.device("cpu"))
    frequencies = [config.rope_theta ** -(i / 64) for i in range(0, 64, 2)]
    angles = [[position * frequency for frequency in frequencies] for position in range(POSITIONS)]
    cosines = torch.tensor([[math.cos(angle) for angle in row] for row in angles])
    sines = torch.tensor([[math.sin(angle) for angle in row] for row in angles])
    assert torch.equal(rotary.cosines, cosines.repeat(1, 2))
    assert torch.equal(rotary.sines, torch.cat((-sines, sines), dim=1))
