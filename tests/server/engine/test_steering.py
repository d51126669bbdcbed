"""Penalties and biases against their definitions, and turns that are steered."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.server.engine.test_engine import Steps

from hope_server.engine.events import Sampled
from hope_server.engine.jobs import Generation
from hope_server.engine.request import SamplingParams
from hope_server.engine.steering import Steering, steering_for
from hope_server.sessions.session import JournalRecord

VOCAB = 12
LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=VOCAB, max_size=VOCAB)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=8)
PENALTY = st.floats(-2, 2, width=32)


@given(LOGITS, TOKENS, TOKENS, PENALTY, PENALTY, st.floats(0.125, 4, width=32), st.integers(0, 6))
def test_the_logits_are_what_the_definitions_say(
    given_logits: list[float],
    prompt: list[int],
    sampled: list[int],
    presence: float,
    frequency: float,
    repetition: float,
    least: int,
) -> None:
    params = SamplingParams(
        logit_bias=((3, 5.0), (4, -100.0)),
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
        min_tokens=least,
        stop_token_ids=frozenset({0, 1}),
    )
    steering = Steering(params, prompt)
    for token in sampled:
        steering.accept(token)
    logits = torch.tensor(given_logits)
    found = steering.apply(logits)
    assert logits.tolist() == torch.tensor(given_logits).tolist()
    counts, seen = Counter(sampled), {*prompt, *sampled}
    for token, value in enumerate(logits.tolist()):
        if token in seen:
            value = value / repetition if value > 0 else value * repetition
        if token in counts:
            value -= presence + frequency * counts[token]
        value += dict(params.logit_bias).get(token, 0.0)
        if token in (0, 1) and len(sampled) < least:
            value = float("-inf")
        assert float(found[token]) == pytest.approx(value, rel=1e-5, abs=1e-4)


def test_a_request_that_asks_for_nothing_is_not_steered() -> None:
    assert steering_for(SamplingParams(stop_token_ids=frozenset({1})), [1, 2]) is None
    assert steering_for(SamplingParams(min_tokens=1), []) is not None


def generate(steps: Steps, session: str, params: SamplingParams, prompt: Any = range(5)) -> list[int]:
    steps.open(session)
    steps.start(session, prompt, params)
    steps.run()
    return steps.tokens(session)


def test_a_steered_turn_obeys(model: Any) -> None:
    free = generate(Steps(model), "s", SamplingParams(temperature=0.0, max_tokens=8))
    banned = tuple((token, -100.0) for token in set(free))
    other = generate(Steps(model), "s", SamplingParams(temperature=0.0, max_tokens=8, logit_bias=banned))
    assert not set(other) & set(free)
    forced = SamplingParams(temperature=1.0, seed=1, max_tokens=8, logit_bias=((9, 100.0),))
    assert generate(Steps(model), "s", forced) == [9] * 8
    spread = SamplingParams(temperature=0.0, max_tokens=20, logit_bias=((9, 8.0),), frequency_penalty=2.0)
    assert generate(Steps(model), "s", spread).count(9) < 20


def test_no_turn_ends_before_its_least_length(model: Any) -> None:
    ends = frozenset(range(25))
    short = SamplingParams(temperature=1.0, max_tokens=12, stop_token_ids=ends)
    long = SamplingParams(temperature=1.0, max_tokens=12, stop_token_ids=ends, min_tokens=6)
    assert len(generate(Steps(model), "s", short)) < 6
    tokens = generate(Steps(model), "s", long)
    assert len(tokens) >= 6
    assert not ends & set(tokens[:6])


class Cycle:
    """Allows 30, 31, 32 in turn, then 40, which ends the turn."""

    over = False

    def __init__(self) -> None:
        self._left = [30, 31, 32, 40]

    def allowed(self) -> bytes:
        return (1 << self._left[0]).to_bytes(8, "little")

    def accept(self, token: int) -> None:
        assert token == self._left.pop(0)
        self.over = not self._left


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_constraint_decides_what_comes_and_when_it_is_over(model: Any, ignore_eos: bool) -> None:
    ends = frozenset({40})
    params = SamplingParams(
        max_tokens=12, stop_token_ids=ends, ignore_eos=ignore_eos, logit_bias=((9, 100.0),)
    )
    steps = Steps(model)
    steps.open("s")
    record = JournalRecord(1, "run", "user", (1, 2))
    generation = Generation(params, 0, steering=steering_for(params, (), Cycle()))
    steps.engine.start("s", [record], generation, durable=True)
    steps.run()
    assert steps.tokens("s") == [30, 31, 32, 40]
    last = [event for event in steps.events["s"] if isinstance(event, Sampled)][-1]
    assert last.finish_reason == "stop"


def test_steering_touches_no_other_row(model: Any, same: Any) -> None:
    steps = Steps(model)
    calm = SamplingParams(temperature=0.0, max_tokens=12)
    for session, params in (
        ("steered", SamplingParams(max_tokens=12, logit_bias=((9, 50.0),))),
        ("calm", calm),
    ):
        steps.open(session)
        steps.start(session, range(9), params)
    steps.run()
    assert steps.tokens("steered") == [9] * 12
    tokens, row = Steps(model).alone(range(9), calm)
    assert steps.tokens("calm") == tokens
    assert same(steps.engine.live_row("calm"), row)


def test_log_probabilities_are_the_model_s_own(model: Any) -> None:
    """Whatever is done to the logits before the draw."""
    plain = SamplingParams(temperature=0.0, max_tokens=6, logprobs=3)
    biased = SamplingParams(temperature=1.0, max_tokens=6, logprobs=3, logit_bias=((9, 100.0),))
    steps = Steps(model)
    generate(steps, "plain", plain)
    best = [event.logprob for event in steps.events["plain"] if isinstance(event, Sampled)]
    for event in best:
        assert event is not None
        assert event.top[0] == (event.token, event.logprob)
        assert [value for _, value in event.top] == sorted((v for _, v in event.top), reverse=True)
    generate(steps, "biased", biased)
    first = next(event.logprob for event in steps.events["biased"] if isinstance(event, Sampled))
    assert first is not None
    assert first.token == 9
    assert first.top == best[0].top  # type: ignore[union-attr]
