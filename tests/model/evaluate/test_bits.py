"""Bits per byte: by hand on short texts, and every token judged once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hope_model.errors import ConfigError, HopeModelError, TrainError
from hope_model.evaluate.bits import hope_bits, load_transformer, transformer_bits
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer
from hope_model.train.objective import TransformerObjective
from hope_model.train.transformer import Transformer


class Stub:
    """A "Transformer" that remembers how much it saw; its logits are the same everywhere."""

    def __init__(self) -> None:
        self.chances = torch.randn(300, generator=torch.Generator().manual_seed(1)).log_softmax(0)

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.chances.expand(*tokens.shape, 300)


class Counter(Stub):
    """Finds token 0 the less likely, the more tokens stand before it."""

    def __call__(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, 300)
        logits[..., 0] = -torch.arange(1.0, tokens.shape[1] + 1)
        return logits


def _nats_after(tokens: int) -> float:
    """What ``Counter`` pays for token 0 after so many tokens."""
    return math.log(299 + math.exp(-tokens)) + tokens


def _yardstick() -> Transformer:
    torch.manual_seed(1)
    return TransformerObjective("test").model.requires_grad_(False)


def test_hope_is_judged_by_hand(model: Hope, tokenizer: Tokenizer) -> None:
    text = "the ☃ run"
    ids = [tokenizer.eos_id, *tokenizer.encode(text)]
    logits, _ = model(torch.tensor([ids[:-1]]), model.initial_state(1))
    chances = logits[0].double().softmax(-1)
    bits = -sum(math.log2(chances[place, token]) for place, token in enumerate(ids[1:]))
    assert hope_bits(model, tokenizer, ids, run=3) == pytest.approx(bits / 11, rel=1e-5)


def test_the_first_token_is_given(tokenizer: Tokenizer) -> None:
    """Neither its nats nor its bytes count."""
    ids = tokenizer.encode("kalo the")
    expected = -float(Stub().chances[ids[1:]].sum()) / math.log(2) / len(tokenizer.decode_bytes(ids[1:]))
    assert transformer_bits(cast(Transformer, Stub()), tokenizer, ids, 8) == pytest.approx(expected)


def test_the_yardstick_is_judged_by_hand(tokenizer: Tokenizer) -> None:
    model, text = _yardstick(), "the ☃ run"
    ids = [tokenizer.eos_id, *tokenizer.encode(text)]
    chances = model(torch.tensor([ids[:-1]]))[0].double().softmax(-1)
    bits = -sum(math.log2(chances[place, token]) for place, token in enumerate(ids[1:]))
    assert transformer_bits(model, tokenizer, ids, 2 * len(ids)) == pytest.approx(bits / 11, rel=1e-5)


@pytest.mark.parametrize("window", [2, 3, 8, 9, 64, 1000])
@pytest.mark.parametrize("tokens", [2, 5, 33, 64, 65, 200])
def test_every_token_is_judged_once(tokenizer: Tokenizer, text: str, tokens: int, window: int) -> None:
    ids = tokenizer.encode(text)[:tokens]
    expected = -float(Stub().chances[ids[1:]].sum()) / math.log(2) / len(tokenizer.decode_bytes(ids[1:]))
    assert transformer_bits(cast(Transformer, Stub()), tokenizer, ids, window) == pytest.approx(expected)


def test_a_token_sees_between_half_a_window_and_a_whole_one(tokenizer: Tokenizer) -> None:
    byte = tokenizer.encode("\n")
    ids = [0] * 13
    seen = [1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8]
    nats = sum(_nats_after(tokens) for tokens in seen)
    tokenizer_of_zeros = cast(Tokenizer, _Bytes(len(tokenizer.decode_bytes(byte))))
    found = transformer_bits(cast(Transformer, Counter()), tokenizer_of_zeros, ids, 8)
    assert found == pytest.approx(nats / math.log(2) / 12)


class _Bytes:
    """A "tokenizer" whose every token stands for as many bytes."""

    def __init__(self, each: int) -> None:
        self.each = each

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"x" * self.each * len(ids)


@pytest.mark.parametrize("window", [1, 0, -4])
def test_a_window_without_a_context_is_refused(tokenizer: Tokenizer, window: int) -> None:
    with pytest.raises(ConfigError, match=f"window: expected at least 2 tokens, found {window}"):
        transformer_bits(cast(Transformer, Stub()), tokenizer, [1, 2, 3], window)


def _run_of(weights: dict[str, Tensor], folder: Path) -> Path:
    (folder / "step-7").mkdir(parents=True)
    save_file(weights, folder / "step-7" / "model.safetensors")
    (folder / "latest.json").write_text(json.dumps({"step": 7}))
    return folder


def test_the_newest_yardstick_of_a_run_is_read(tmp_path: Path) -> None:
    model, tokens = _yardstick(), torch.tensor([[5, 6, 7]])
    torch.manual_seed(9)
    loaded = load_transformer(_run_of(dict(model.state_dict()), tmp_path), "test")
    torch.testing.assert_close(loaded(tokens), model(tokens), rtol=0, atol=0)
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no readable checkpoint"):
        load_transformer(tmp_path, "test")


def test_a_run_of_another_model_is_refused(model: Hope, tmp_path: Path) -> None:
    with pytest.raises(HopeModelError, match="transformer-test"):
        load_transformer(_run_of(dict(model.state_dict()), tmp_path), "test")
