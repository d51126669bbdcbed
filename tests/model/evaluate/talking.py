"""A tiny pre-trained model that can be talked to, in memory and as a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.model.attention import tiny
from tests.model.convert.builders import EOS, SPECIALS, VOCAB, tiny_tokenizer

from hope_model.attention.config import HopeAttentionConfig
from hope_model.attention.model import HopeAttention
from hope_model.evaluate.conversation import ChatFormat, LastToken, Message, Part
from hope_model.pretrained_tokenizer import PretrainedTokenizer

START = SPECIALS.index("<|im_start|>")
CONFIG = HopeAttentionConfig(
    "tiny", tiny.backbone_config(vocab_size=VOCAB), tiny.memory_config(tiny.level(max_norm=0.2))
)
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@cache
def model(dtype: torch.dtype = torch.float32) -> HopeAttention:
    """In fp32 by default, where sums in another order differ little."""
    return tiny.build(CONFIG, dtype)


@cache
def tokenizer() -> PretrainedTokenizer:
    return PretrainedTokenizer(tiny_tokenizer().to_str(), vocab_size=VOCAB, eos_ids=[EOS])


def render(messages: Sequence[Message], after: LastToken | None) -> list[Part]:
    """What :data:`TEMPLATE` writes."""
    parts: list[Part] = []
    if after is not None and after != LastToken(EOS, "model"):
        parts.append(("template", [EOS]))
    for message in messages:
        parts.append(("template", [START, *tokenizer().encode(f"{message.role}\n")]))
        parts.append((message.role, tokenizer().encode(message.text)))
        parts.append(("template", [EOS]))
    return [*parts, ("template", [START, *tokenizer().encode("assistant\n")])]


def chat() -> ChatFormat:
    return ChatFormat(tokenizer(), render, frozenset([EOS]))


def write_checkpoint(folder: Path, *, template: bool = True, add_bos: bool = False) -> Path:
    """The model as ``hope convert`` would write it."""
    folder.mkdir(parents=True)
    save_file(tiny.random_weights(CONFIG), folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    content = {
        "format": 1,
        "family": "hope_attention",
        "model": asdict(CONFIG),
        "tokens": {"eos": [EOS], "bos": START, "add_bos": add_bos},
    }
    (folder / "config.json").write_text(json.dumps(content))
    if template:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder
