"""Refused writes in a row, and a session that learns no more: Hope-Attention."""

from __future__ import annotations

import pytest
import torch
from tests.model.attention.tiny import (
    BLOCK,
    DELAY,
    PERIOD,
    Sessions,
    alone,
    build,
    config,
    deltas_of,
    level,
    text,
    tiny_model,
    writes_of,
)
from tests.model.small import assert_identical

from hope_model.attention.model import HopeAttention
from hope_model.attention.write import GUARDED
from hope_model.streaks import LIMIT, Frozen

THIRD = BLOCK + (LIMIT - 1) * PERIOD + DELAY
"""Where the third refused write would have become active, as the first one begins at the boundary."""
LENGTH = 2 * BLOCK + DELAY + 10


@pytest.fixture(scope="module")
def strict() -> HopeAttention:
    """Its canaries let nothing pass: it writes until the first one is asked, at the first boundary."""
    return build(config(level(text_step_length=0.3), canary=1e-9))


def test_the_third_write_that_a_canary_refuses_ends_learning(strict: HopeAttention) -> None:
    sessions = Sessions(strict, text(LENGTH).with_origins("user"))
    sessions.read(0, BLOCK)
    learned, rows = sessions.rows.state(0), sessions.rows
    assert writes_of(rows, 0) == ((GUARDED - 1,), (0,))
    sessions.read(0, THIRD - 1 - BLOCK)
    assert rows.counters([0])[0][1:] == ((LIMIT - 1,), Frozen.NO, BLOCK)
    sessions.read(0, 1)
    assert rows.counters([0])[0][1:] == ((LIMIT,), Frozen.CANARY, BLOCK)
    sessions.read(0, sessions.left(0))
    assert writes_of(rows, 0) == ((GUARDED - 1,), (LIMIT,))
    assert_identical(deltas_of(rows.state(0)), deltas_of(learned))


def test_how_far_answers_went_is_told_once(strict: HopeAttention) -> None:
    sessions = Sessions(strict, text(LENGTH).with_origins("user"))
    sessions.read(0, BLOCK + DELAY - 1)
    assert sessions.rows.take_divergence(0) is None
    sessions.read(0, 1)
    told = sessions.rows.take_divergence(0)
    assert told is not None
    assert told > strict.config.memory.canary
    assert sessions.rows.take_divergence(0) is None


def test_a_write_that_is_applied_closes_the_streak() -> None:
    """What one period's tokens left is not finite; the boundary at which its write is due is not good."""
    sessions = Sessions(tiny_model(), text(BLOCK + 2 * PERIOD).with_origins("user"))
    sessions.read(0, BLOCK - PERIOD - 1)
    with torch.inference_mode():
        sessions.rows._slabs.cache.hidden[0] = float("nan")
    sessions.read(0, PERIOD + 1)
    assert (int(sessions.rows.state(0)["streaks"]), sessions.rows.counters([0])[0].good) == (1, 0)
    sessions.read(0, PERIOD)
    assert (int(sessions.rows.state(0)["streaks"]), sessions.rows.counters([0])[0].frozen) == (0, Frozen.NO)
    assert writes_of(sessions.rows, 0) == ((GUARDED - 1,), (1,))


@pytest.mark.parametrize("settle", [False, True])
def test_a_session_that_is_frozen_at_a_boundary_goes_on_the_same_from_its_state(settle: bool) -> None:
    """Read on, or loaded there; a write that begins at the boundary is given up. A neighbour learns on."""
    model, it = tiny_model(), text(LENGTH)
    whole = Sessions(model, it, text(LENGTH, 1))
    whole.read(0, BLOCK, settle=settle)
    state = whole.rows.state(0)
    whole.rows.freeze(0)
    loaded = Sessions(model, it)
    loaded.rows.load(0, state)
    loaded.rows.freeze(0)
    for row in (0, 1):
        whole.read(row, whole.left(row), settle=settle)
    loaded.read(0, loaded.left(0), settle=not settle)
    assert torch.equal(loaded.logits[0], whole.logits[0])
    assert_identical(loaded.rows.state(0), whole.rows.state(0))
    assert_identical(deltas_of(whole.rows.state(0)), deltas_of(state))
    assert [int(it["frozen"]) for it in whole.boundaries[0].values()] == [Frozen.NO, Frozen.JOURNAL]
    assert writes_of(whole.rows, 0) == (tuple(state["writes"][0].tolist()), (0,))
    assert_identical(whole.rows.state(1), alone(model, text(LENGTH, 1)).rows.state(0))
