"""A model small enough that a token costs nothing: what is under test is everything around it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.model.attention.tiny import backbone_config, memory_config, random_weights

from hope_model.attention.config import HopeAttentionConfig
from hope_model.checkpoint import resolve, save_checkpoint
from hope_model.config import HopeConfig, LevelConfig
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer

VOCAB = 8192
BLOCK = 32
"""Boundaries come often, so that faults meet snapshots too."""
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
REFUSING_BLOCK = 192
REFUSING_NATS = 0.02
"""About as far as a write of that model moves a canary's answers: some are refused, and some sessions have
three in a row.
"""


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


def write_refusing_checkpoint(folder: Path) -> Path:
    """Hope-Attention, random weights, the shipped tokenizer: its guards refuse a write now and then."""
    memory = memory_config(prefix=16, block=REFUSING_BLOCK, canary=REFUSING_NATS)
    config = HopeAttentionConfig("refusing", backbone_config(vocab_size=VOCAB), memory)
    shipped = resolve("hope-tiny") / "tokenizer.json"
    folder.mkdir()
    save_file(random_weights(config), folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes(shipped.read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    tokens = {"eos": [Tokenizer.end_id], "bos": None, "add_bos": False}
    content = {"format": 1, "family": "hope_attention", "model": config.to_dict(), "tokens": tokens}
    (folder / "config.json").write_text(json.dumps(content))
    return folder
