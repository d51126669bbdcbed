"""A model small enough that a token costs nothing: what is under test is everything around it."""

from __future__ import annotations

from pathlib import Path

import torch

from hope_model.checkpoint import resolve, save_checkpoint
from hope_model.config import HopeConfig, LevelConfig
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer

VOCAB = 8192
BLOCK = 32
"""Boundaries come often, so that faults meet snapshots too."""


def write_checkpoint(folder: Path) -> Path:
    """Random frozen weights, the shipped tokenizer."""
    tokenizer = Tokenizer.load(resolve("hope-tiny") / "tokenizer.json")
    config = HopeConfig(
        "small",
        vocab_size=VOCAB,
        width=32,
        layers=1,
        heads=2,
        mlp_width=32,
        chunk=16,
        cms_width=16,
        levels=(LevelConfig("fast", 16), LevelConfig("slower", 64)),
        block=BLOCK,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Hope(config).requires_grad_(False)
    save_checkpoint(folder, model, tokenizer, dtype=torch.float32)
    return folder
