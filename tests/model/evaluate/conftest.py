"""A tiny model whose levels matter, its tokenizer, and both as a checkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from tests.model.corpus import CONFIG, SYLLABLES

from hope_model.checkpoint import save_checkpoint
from hope_model.config import CONFIGS, HopeConfig
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def config(monkeypatch: pytest.MonkeyPatch) -> HopeConfig:
    """The tiny configuration, known as "test"."""
    monkeypatch.setitem(CONFIGS, CONFIG.name, CONFIG)
    return CONFIG


@pytest.fixture(scope="session")
def model() -> Hope:
    """Weights far enough from their start that every memory changes the logits."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = Hope(CONFIG).requires_grad_(False).eval()
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="session")
def text() -> str:
    """About 900 tokens, with characters of several bytes."""
    rng = random.Random(4)
    return "ë☃ " + " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(400))


@pytest.fixture(scope="session")
def tokenizer(text: str) -> Tokenizer:
    return Tokenizer.train([text], CONFIG.vocab_size)


@pytest.fixture(scope="session")
def checkpoint(model: Hope, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, model, tokenizer, dtype=torch.float32)
    return folder
