"""The geometry that a model finds out about itself: exact in form, repeatable, and about right in size."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.model.attention.tiny import (
    VOCAB,
    as_deltas,
    backbone_config,
    config,
    deltas_of,
    level,
    random_weights,
)
from torch import Tensor

from hope_model.attention import calibrate as module
from hope_model.attention.calibrate import calibrate, default_memory
from hope_model.attention.config import BackboneConfig, HopeAttentionConfig, MemoryConfig
from hope_model.attention.memory import CANARY_START, CANARY_TOKENS, memory_shapes, sites_of
from hope_model.attention.model import HopeAttention
from hope_model.attention.prompts import OPENINGS, QUESTIONS

CONFIG = config(level(projections=("up_proj", "down_proj")))
WEIGHTS = {name: tensor for name, tensor in random_weights(CONFIG).items() if not name.startswith("memory.")}
ASKED = QUESTIONS[:11]
Constants = dict[str, Tensor]


def encode(text: str) -> list[int]:
    return [ord(character) % VOCAB for character in text]


@pytest.fixture(autouse=True)
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty short ones, not a whole number of batches."""
    monkeypatch.setattr(module, "OPENINGS", OPENINGS[:9])
    monkeypatch.setattr(module, "QUESTIONS", ASKED)
    monkeypatch.setattr(module, "ANSWER_TOKENS", 20)


def run(**options: Any) -> tuple[dict[str, object], Constants]:
    return calibrate(CONFIG.backbone, WEIGHTS, encode, **{"memory": CONFIG.memory, **options})


@pytest.fixture
def constants() -> Constants:
    return run()[1]


def test_the_constants_are_those_that_a_checkpoint_holds(constants: Constants) -> None:
    expected = memory_shapes(CONFIG)
    assert {name: tuple(tensor.shape) for name, tensor in constants.items()} == expected
    assert all(bool(tensor.float().isfinite().all()) for tensor in constants.values())


def test_the_memorys_configuration_survives_a_file() -> None:
    memory, _ = run()
    assert MemoryConfig.from_dict(json.loads(json.dumps(memory))) == CONFIG.memory


def test_subspaces_are_orthonormal_and_moments_are_moments(constants: Constants) -> None:
    for site in sites_of(CONFIG):
        subspace = constants[f"memory.{site.name}.subspace"]
        unit = torch.eye(len(subspace))
        torch.testing.assert_close(subspace @ subspace.T, unit, rtol=0, atol=1e-5)
        for kind in ("input_moment", "output_moment"):
            moment = constants[f"memory.{site.name}.{kind}"]
            torch.testing.assert_close(moment, moment.T, rtol=1e-4, atol=1e-7)
            assert float(torch.linalg.eigvalsh(moment).min()) > -1e-5 * float(moment.trace())
            assert float(moment.trace()) > 0


def test_it_repeats_itself(constants: Constants) -> None:
    """Whatever state torch's own generator is in: the model's hash depends on it."""
    torch.manual_seed(99)
    again = run()[1]
    assert all(torch.equal(again[name], tensor) for name, tensor in constants.items())


def test_progress_goes_from_nothing_to_all() -> None:
    shares: list[float] = []
    run(progress=shares.append)
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] == 1.0


def test_the_model_is_asked_in_its_own_format(constants: Constants) -> None:
    asked: list[str] = []

    def chat(question: str) -> list[int]:
        asked.append(question)
        return [7, *encode(question), 9]

    _, found = run(chat=chat)
    assert asked == list(ASKED)
    name = "memory.layers.1.up_proj.output_moment"
    assert not torch.equal(found[name], constants[name])
    texts, starts = found[CANARY_TOKENS].tolist(), found[CANARY_START].tolist()
    questions = [[7, *encode(question), 9] for question in asked]
    for text, start in zip(texts, starts, strict=True):
        assert text[: start + 1] in questions, "a canary is judged from the token that opens its answer"
        assert all(0 <= token < VOCAB for token in text[start + 1 :][: module.ANSWER_TOKENS])


@pytest.mark.parametrize("prompt", [lambda _: [], lambda text: encode(text) * 40], ids=["empty", "long"])
def test_prompts_may_be_empty_or_longer_than_the_window(prompt: Callable[[str], list[int]]) -> None:
    _, found = calibrate(CONFIG.backbone, WEIGHTS, prompt, memory=CONFIG.memory)
    assert all(bool(tensor.float().isfinite().all()) for tensor in found.values())
    HopeAttention(CONFIG, {**WEIGHTS, **found})


@torch.no_grad()
def test_half_the_squared_norm_is_about_the_change_in_nats(constants: Constants) -> None:
    """Within a factor of five: the factors of a Fisher matrix are not independent, and deltas add up."""
    model = HopeAttention(CONFIG, {**WEIGHTS, **constants}, dtype=torch.float32)
    texts = [torch.tensor([[int(token) for token in row if token >= 0]]) for row in constants[CANARY_TOKENS]]
    for seed in range(3):
        make = torch.Generator().manual_seed(seed)
        state = model.initial_state(1)
        for name, delta in deltas_of(state).items():
            state[name] = 0.05 * torch.randn(delta.shape, generator=make)
        deltas = as_deltas(model, state)
        predicted = 0.5 * float(model.memory.squared_norm(deltas, list(deltas)))
        found = tokens = 0.0
        for text in texts:
            theta, adapted = (model.forward(text, own).log_softmax(-1) for own in (None, deltas))
            found += float((theta.exp() * (theta - adapted)).sum())
            tokens += text.shape[1]
        assert 0.2 < found / tokens / predicted < 5


@pytest.mark.parametrize(
    "backbone",
    [
        backbone_config(),
        backbone_config(layers=1),
        backbone_config(mlp_width=7),
        BackboneConfig(49152, 576, 30, 9, 3, 64, 1536),
        BackboneConfig(128256, 2048, 16, 32, 8, 64, 8192),
        BackboneConfig(151936, 5120, 64, 64, 8, 128, 25600),
    ],
    ids=["tiny", "one layer", "narrow", "135M", "1B", "32B"],
)
def test_the_default_memory_fits_every_model(backbone: BackboneConfig) -> None:
    it = HopeAttentionConfig("any", backbone, default_memory(backbone))
    assert sum(4 * site.shape[0] * site.shape[1] for site in sites_of(it)) <= 1 << 20
    assert it.memory.levels[0].last_layer == backbone.layers - 1
    assert it.memory.levels[0].rank <= backbone.mlp_width
