"""Sampling: exact distributions and numbers that depend on nothing but seed and position."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hope_kernels.cpu import build
from hope_server.engine.request import SamplingParams
from hope_server.engine.sampling import choose, choose_on_device, uniform

LOGITS = torch.tensor([0.1, 2.0, -1.0, 1.5, 0.7, -3.0])


def frequencies(params: SamplingParams, draws: int = 4000) -> torch.Tensor:
    """How often each token is chosen when u sweeps [0, 1) evenly."""
    counts = Counter(choose(LOGITS, params, (i + 0.5) / draws) for i in range(draws))
    return torch.tensor([counts[token] / draws for token in range(len(LOGITS))])


def softmax(keep: list[int], temperature: float) -> torch.Tensor:
    masked = torch.full_like(LOGITS, float("-inf"))
    masked[keep] = LOGITS[keep]
    return (masked / temperature).softmax(0)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(), softmax([0, 1, 2, 3, 4, 5], 1.0)),
        (SamplingParams(temperature=0.5), softmax([0, 1, 2, 3, 4, 5], 0.5)),
        (SamplingParams(temperature=3.0, top_k=3), softmax([1, 3, 4], 3.0)),
        (SamplingParams(top_k=100), softmax([0, 1, 2, 3, 4, 5], 1.0)),
        (SamplingParams(top_p=0.7), softmax([1, 3], 1.0)),
        (SamplingParams(top_p=1e-9), softmax([1], 1.0)),
        (SamplingParams(top_k=4, top_p=0.9), softmax([1, 3, 4], 1.0)),
        (SamplingParams(temperature=1e-6), softmax([1], 1.0)),
    ],
    ids=["plain", "cold", "top-k", "top-k-of-all", "top-p", "top-p-of-one", "both", "nearly-greedy"],
)
def test_tokens_come_as_often_as_their_probability_says(
    params: SamplingParams, expected: torch.Tensor
) -> None:
    assert torch.allclose(frequencies(params), expected, atol=1e-3)


@given(st.integers(0, 999), st.sampled_from([(3, 1.0), (3, 0.9), (0, 0.9), (100, 0.5), (1, 1.0)]))
def test_a_device_chooses_the_same_token_where_something_is_cut(u: int, cut: tuple[int, float]) -> None:
    """In the middle of a thousandth: fp32 may decide otherwise on the border of two tokens."""
    params = SamplingParams(temperature=0.8, top_k=cut[0], top_p=cut[1])
    chance = (u + 0.5) / 1000
    assert choose_on_device(LOGITS, params, chance) == choose(LOGITS, params, chance)


@pytest.mark.parametrize("temperature", [1e-6, 0.8, 30.0])
@pytest.mark.parametrize("cut", [(0, 1.0), (5, 1.0), (0, 0.9)])
def test_a_device_leaves_out_tokens_that_may_not_come(temperature: float, cut: tuple[int, float]) -> None:
    steered = LOGITS.clone()
    steered[[1, 3, 5]] = -torch.inf
    params = SamplingParams(temperature=temperature, top_k=cut[0], top_p=cut[1])
    found = {choose_on_device(steered, params, (i + 0.5) / 100) for i in range(100)}
    assert found <= {0, 2, 4}
    assert choose_on_device(steered, params, 0.0) == 4


def test_a_device_draws_from_all_tokens_as_often_as_it_should() -> None:
    params = SamplingParams(temperature=0.8)
    counts = Counter(choose_on_device(LOGITS, params, (i + 0.5) / 1000) for i in range(1000))
    found = torch.tensor([counts[token] / 1000 for token in range(len(LOGITS))])
    assert torch.allclose(found, softmax([0, 1, 2, 3, 4, 5], 0.8), atol=2e-3)


def test_temperature_zero_takes_the_best() -> None:
    assert {choose(LOGITS, SamplingParams(temperature=0.0), u / 10) for u in range(10)} == {1}


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**40))
def test_uniform_is_a_function_into_the_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0
    assert uniform(seed, position) == uniform(seed, position)


def test_uniform_numbers_are_even_and_seeds_unrelated() -> None:
    numbers = [[uniform(seed, position) for position in range(2000)] for seed in range(8)]
    for column in numbers:
        counts = Counter(int(u * 10) for u in column)
        chi_square = sum((counts[cell] - 200) ** 2 / 200 for cell in range(10))
        assert chi_square < 33.7  # 0.9999 quantile at 9 degrees of freedom
    table = torch.tensor(numbers, dtype=torch.float64)
    off_diagonal = torch.corrcoef(table) - torch.eye(8, dtype=torch.float64)
    assert float(off_diagonal.abs().max()) < 0.1
    lagged = torch.corrcoef(torch.stack([table[0, :-1], table[0, 1:]]))
    assert abs(float(lagged[0, 1])) < 0.1


@given(st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 7), st.floats(0.05, 1.0), st.floats(0.1, 5.0))
def test_any_draw_is_a_token_with_weight(u: float, top_k: int, top_p: float, temperature: float) -> None:
    logits = torch.tensor([0.0, -1e30, 3.0, 2.0, -float(2**100), 1.0])
    token = choose(logits, SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p), u)
    assert token in (0, 2, 3, 5)


@pytest.mark.compiler
@pytest.mark.parametrize("cut", [(2, 1.0), (0, 0.7)], ids=str)
def test_the_compiled_draw_takes_no_part_where_something_is_cut(cut: tuple[int, float]) -> None:
    """A process that decodes with the compiled kernel has loaded it; least likely tokens stay out."""
    build.load()
    params = SamplingParams(temperature=1.0, top_k=cut[0], top_p=cut[1])
    assert {choose(LOGITS, params, u / 100) for u in range(100)} == {1, 3}
    assert {choose(LOGITS, SamplingParams(temperature=1.0), u / 100) for u in range(100)} > {1, 3}
