"""Each decoder on inputs that are nearly good; and that the harness notices what it is there for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from tests.fuzz.mutate import inputs
from tests.fuzz.target import Greedy, Target
from tests.fuzz.targets import TARGETS

EXAMPLES, SLOW_EXAMPLES = 100, 2


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_are_accepted(name: str) -> None:
    target = TARGETS[name]
    assert all(target.check(seed) for seed in target.seeds[:1])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("times", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_only_its_own_errors_come_out(name: str, times: int) -> None:
    target = TARGETS[name]
    examples = times * (SLOW_EXAMPLES if target.slow else EXAMPLES)

    @settings(max_examples=examples, database=None)
    @given(inputs(target.seeds))
    def check(data: bytes) -> None:
        target.check(data)

    check()


def test_a_foreign_error_and_a_large_allocation_come_out() -> None:
    with pytest.raises(ZeroDivisionError):
        Target("x", lambda data: 1 // len(data), (ValueError,), (b"a",)).check(b"")
    with pytest.raises(Greedy):
        Target("x", lambda data: bytes(1 << 27), (ValueError,), (b"a",)).check(b"")
