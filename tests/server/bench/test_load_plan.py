"""A load test's plan: all chance from one seed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hope_server.bench.load_plan import LoadSettings, Span, plan

SETTINGS = LoadSettings(
    requests=400,
    warm_up=10,
    rate=5.0,
    concurrency=8,
    turns=4,
    prompt_words=Span(3, 9),
    answer_tokens=Span(8, 8),
    seed=7,
)


def test_equal_settings_give_equal_plans_and_another_seed_another() -> None:
    assert plan(SETTINGS) == plan(SETTINGS)
    assert plan(SETTINGS) != plan(replace(SETTINGS, seed=8))


def test_a_rate_is_a_poisson_process() -> None:
    """Gaps have the mean of the rate, and a spread as large as their mean."""
    moments = [request.at_s or 0.0 for request in plan(replace(SETTINGS, requests=4000))]
    gaps = [late - early for early, late in zip([0.0, *moments], moments, strict=False)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(1 / 5.0, rel=0.05)
    assert spread == pytest.approx(mean, rel=0.1)


def test_without_a_rate_nothing_is_due_at_a_moment() -> None:
    planned = plan(replace(SETTINGS, rate=None))
    assert [request.at_s for request in planned] == [None] * 410
    assert [request.index for request in planned] == list(range(410))


def test_lengths_stay_in_their_spans_and_reach_both_ends() -> None:
    planned = plan(SETTINGS)
    assert {len(request.prompt.split()) for request in planned} == set(range(3, 10))
    assert {request.answer_tokens for request in planned} == {8}
    assert len({request.seed for request in planned}) == len(planned)
