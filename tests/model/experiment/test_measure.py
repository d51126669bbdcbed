"""What a figure is taken of: losses that are their own positions say which tokens a mean is over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.model.corpus import CONFIG
from tests.model.experiment.tiny import SETTINGS, tiny_tokenizer
from tests.pretend_gpu import GPU, pretend_gpu
from torch import Tensor

from hope_model.errors import DataError
from hope_model.experiment import measure
from hope_model.experiment.runner import Places
from hope_model.hope import Hope
from hope_model.state import State

EVALUATION = SETTINGS.evaluation


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Hope:
    def positions(model: Hope, tokens: Tensor, state: State, run: int) -> tuple[Tensor, State]:
        """Row ``b``'s loss of token ``t`` is ``1000 b + t``; the first token has none."""
        rows, length = tokens.shape
        return torch.arange(1.0, length) + 1000.0 * torch.arange(float(rows))[:, None], state

    monkeypatch.setattr(measure, "read_losses", positions)
    return Hope(CONFIG)


def test_both_readings_of_a_passage_are_judged_on_the_same_tokens(model: Hope) -> None:
    rows = [("a", 1.0, torch.arange(200)[None])]
    saved = measure.recall(model, rows, EVALUATION)["saved"]
    assert saved == {str(gap): -(EVALUATION.recall_tokens + gap) for gap in EVALUATION.recall_gaps}


def test_passages_come_again_after_the_gap(model: Hope, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Tensor] = []

    def keep(model: Hope, tokens: Tensor, state: State, run: int) -> tuple[Tensor, State]:
        read.append(tokens)
        return torch.zeros(len(tokens), tokens.shape[1] - 1), state

    monkeypatch.setattr(measure, "read_losses", keep)
    measure.recall(model, [("a", 1.0, torch.arange(200)[None])], EVALUATION)
    length = EVALUATION.recall_tokens
    assert [tokens.shape for tokens in read] == [(3, 2 * length + gap) for gap in EVALUATION.recall_gaps]
    for tokens, gap in zip(read, EVALUATION.recall_gaps, strict=True):
        assert torch.equal(tokens[:, :length], tokens[:, length + gap :])
        assert tokens[:, 0].tolist() == sorted({*tokens[:, 0].tolist()}), "passages differ"


def test_stretches_of_a_long_stream_double(
    places: Places, model: Hope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "FIRST_BIN", 40)
    found, _ = measure.long_streams(model, tiny_tokenizer(), places.kit, EVALUATION)
    assert found["ends"] == [40, 80, 160]
    assert list(found["streams"]) == list(measure.STREAMS)
    first, second, _ = found["streams"].values()
    assert first == [20.5, 60.5, 120.5]
    assert second == [1020.5, 1060.5, 1120.5]
    assert found["loss"] == pytest.approx(1080.5)


def test_heldout_loss_is_weighted_by_set(model: Hope) -> None:
    rows = [
        ("a", 0.75, torch.zeros(1, 4, dtype=torch.long)),
        ("b", 0.25, torch.zeros(1, 8, dtype=torch.long)),
    ]
    found = measure.heldout_loss(model, rows)
    assert found == {"loss": 0.75 * 2 + 0.25 * 4, "sets": {"a": 2.0, "b": 4.0}, "tokens": 10}


def test_too_short_texts_are_named(places: Places, model: Hope) -> None:
    long = replace(EVALUATION, stream=100_000, recall_gaps=(1000,))
    with pytest.raises(DataError, match=r"gutenberg_darwin: expected more than 100000 tokens, found \d+"):
        measure.long_streams(model, tiny_tokenizer(), places.kit, long)
    with pytest.raises(DataError, match=r"recall: expected 1012 tokens of held-out text at least, found 199"):
        measure.recall(model, [("a", 1.0, torch.arange(200)[None])], long)


def test_a_missing_file_of_the_kit_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mc/boolq_val.jsonl"):
        measure.kit_files(tmp_path)


def test_a_model_is_measured_on_the_gpu_where_it_trained(places: Places) -> None:
    torch.manual_seed(0)
    here = Hope(CONFIG).requires_grad_(False).eval()
    tokenizer, ids = tiny_tokenizer(), torch.arange(200) % CONFIG.vocab_size
    rows = [("a", 1.0, ids[None])]
    expected = measure.evaluate(here, tokenizer, rows, places.kit, EVALUATION)
    with pretend_gpu() as gpu:
        with torch.device("meta"):
            there = Hope(CONFIG).requires_grad_(False).eval()
        weights = {name: tensor.to(GPU) for name, tensor in here.state_dict().items()}
        there.load_state_dict(weights, assign=True)
        found = measure.evaluate(there, tokenizer, rows, places.kit, EVALUATION)
    assert gpu.calls > 0
    assert _numbers(found) == pytest.approx(_numbers(expected), rel=1e-3, abs=1e-3)


def _numbers(figures: object) -> list[float]:
    """All numbers in figures, in order."""
    if isinstance(figures, dict):
        return [number for value in figures.values() for number in _numbers(value)]
    if isinstance(figures, list):
        return [number for value in figures for number in _numbers(value)]
    return [float(figures)] if isinstance(figures, int | float) else []
