"""A token by chance from the compiled kernel, that of a sum in order over all tokens; and the best one."""

from __future__ import annotations

import random

import pytest
import torch

from hope_kernels.cpu import build
from hope_kernels.cpu.draw import best, draw, look

pytestmark = pytest.mark.compiler


@pytest.fixture(autouse=True)
def library() -> None:
    build.load()


@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 511, 512, 513, 8191])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 1e-40, 1e40])
def test_it_is_the_token_at_which_the_sum_passes(vocab: int, temperature: float) -> None:
    logits = 3 * torch.randn(vocab) - 20
    weights = ((logits.double() - logits.max()) / temperature).exp()
    sums = weights.cumsum(0)
    for u in (0.0, *(random.random() for _ in range(40)), 1 - 2.0**-53):
        token = draw(logits, temperature, u)
        assert token is not None
        before, after = 0.0 if token == 0 else float(sums[token - 1]), float(sums[token])
        assert before - 1e-6 * sums[-1] <= u * sums[-1] <= after + 1e-6 * sums[-1]
        assert weights[token] > 0, "a token of no weight is never drawn"
        assert draw(logits, temperature, u, best(logits)) == token


def test_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(64)
    assert draw(logits, 1.0, 0.5) is not None
    assert draw(logits.double(), 1.0, 0.5) is None
    assert draw(logits[::2], 1.0, 0.5) is None
    monkeypatch.setattr(build, "_loaded", [])
    assert draw(logits, 1.0, 0.5) is None


@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 511, 8191])
def test_the_best_is_the_first_of_the_largest(vocab: int) -> None:
    for _ in range(20):
        logits = torch.randint(-5, 5, (vocab,)).float()
        first = int((logits == logits.max()).nonzero()[0])
        assert best(logits) == first
        assert look([logits, logits]) == [first, first]
    assert best(torch.full((vocab,), -torch.inf)) == 0


@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 511])
def test_infinity_and_nan_are_found_wherever_they_are(vocab: int) -> None:
    most = torch.finfo(torch.float32).max
    values = torch.tensor([-most, most, 0.0] * vocab)[:vocab]
    first = min(1, vocab - 1)
    for place in range(vocab):
        rows = [values]
        for bad in (torch.inf, -torch.inf, torch.nan):
            rows += [values.clone(), values]
            rows[-2][place] = bad
        torch.set_num_threads(1 + place % 3)
        assert look(rows) == [first, -1, first, -1, first, -1, first]
    assert look([values]) == [first]


def test_other_types_and_steps_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(64)
    assert look([values, values]) == [best(values)] * 2
    for other in (values.double(), values[::2]):
        assert best(other) is None
        assert look([other]) is None
    assert look([values, values.double()]) is None
    monkeypatch.setattr(build, "_loaded", [])
    assert best(values) is None
    assert look([values]) is None
