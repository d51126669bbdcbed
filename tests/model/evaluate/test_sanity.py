"""Sanity figures: by hand on a few prompts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tests.model.convert.builders import EOS
from tests.model.evaluate import talking
from torch import Tensor

from hope_model.evaluate import sanity
from hope_model.evaluate.sanity import SanityCheck, repetition

PROMPTS = ("the cat", "What is 1 + 2?", "Hi")


def _deltas(scale: float) -> dict[str, Tensor]:
    make = torch.Generator().manual_seed(2)
    sites = talking.model().memory.sites
    return {site.name: scale * torch.randn(1, *site.shape, generator=make) for site in sites}


def _greedy(prompt: Sequence[int], deltas: dict[str, Tensor] | None) -> list[int]:
    answer: list[int] = []
    while len(answer) < sanity.ANSWER_TOKENS:
        token = int(talking.model().forward(torch.tensor([[*prompt, *answer]]), deltas)[0, -1].argmax())
        if token == EOS:
            break
        answer.append(token)
    return answer


@pytest.fixture(scope="module")
def check() -> SanityCheck:
    return SanityCheck(talking.model(), talking.chat(), PROMPTS)


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        ([], 0.0),
        ([[1, 2, 3]], 0.0),
        ([[1, 2, 3, 4, 5]], 0.0),
        ([[1, 1, 1, 1, 1, 1]], 2 / 3),
        ([[1, 2, 3, 4], [1, 2, 3, 4]], 0.0),
        ([[1, 2, 1, 2, 1, 2], [1, 2, 3, 4]], 1 / 4),
    ],
)
def test_repetition_is_the_share_of_repeated_4_grams(answers: list[list[int]], share: float) -> None:
    assert repetition(answers) == pytest.approx(share)


def test_a_session_that_learned_nothing_is_the_model(check: SanityCheck) -> None:
    found = check.measure(None)
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert found.repetition == check.repetition


def test_the_divergence_is_that_of_the_predictions_on_the_models_own_answers(check: SanityCheck) -> None:
    deltas, total, tokens = _deltas(0.3), 0.0, 0
    for text in PROMPTS:
        prompt = talking.chat().question(text, None)
        answer = _greedy(prompt, None)
        ids = torch.tensor([[*prompt, *answer]])
        expected, found = (
            talking.model().forward(ids, own)[0, len(prompt) - 1 :].double().log_softmax(-1)
            for own in (None, deltas)
        )
        total += float((expected.exp() * (expected - found)).sum())
        tokens += len(answer) + 1
    assert total / tokens > 1e-3
    assert check.measure(deltas).kl == pytest.approx(total / tokens, rel=1e-3)


def test_repetition_is_that_of_the_sessions_answers(check: SanityCheck) -> None:
    deltas = _deltas(3.0)
    answers = [_greedy(talking.chat().question(text, None), deltas) for text in PROMPTS]
    assert check.measure(deltas).repetition == pytest.approx(repetition(answers))
    assert answers != [_greedy(talking.chat().question(text, None), None) for text in PROMPTS]


def test_more_learned_is_further_away(check: SanityCheck) -> None:
    near, far = (check.measure(_deltas(scale)).kl for scale in (0.05, 0.5))
    assert 0 < near < far


def test_prompts_are_judged_in_small_batches(monkeypatch: pytest.MonkeyPatch, check: SanityCheck) -> None:
    monkeypatch.setattr(sanity, "_BATCH", 2)
    small = SanityCheck(talking.model(), talking.chat(), PROMPTS)
    assert small.measure(_deltas(0.3)).kl == pytest.approx(check.measure(_deltas(0.3)).kl, rel=1e-4)
