"""E29 for Hope-Attention: tokens that may not teach are in no lesson, however they are read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tests.model.attention.tiny import BLOCK, DELAY, PERIOD, Text, deltas_of, text, tiny_model, writes_of
from tests.model.small import assert_identical

from hope_model.attention.rows import SessionRows


def read(
    rows: SessionRows, row: int, it: Text, learn: Sequence[bool], *, start: int = 0, steps: bool = False
) -> None:
    """The rest of a text from ``start``."""
    place = start
    while place < len(it):
        end = min(place + (1 if steps else rows.room(row)), len(it))
        part = slice(place, end)
        if steps:
            rows.decode([row], it.tokens[part], it.origins[place], learn[part])
        else:
            rows.read(row, it.tokens[part], it.origins[part], learn[part])
        place = end


def test_a_turn_that_teaches_nothing_leaves_what_was_learned() -> None:
    """It has as many taught words as the turn before, and goes over two ends of a period."""
    rows, it = SessionRows(tiny_model(), 1), text(PERIOD + DELAY + 2 * PERIOD + DELAY)
    first = PERIOD + DELAY
    learn = [place < PERIOD for place in range(len(it))]
    read(rows, 0, Text(it.tokens[:first], it.origins[:first]), learn[:first])
    before, counts = rows.state(0), writes_of(rows, 0)
    assert counts == ((1,), (0,))
    read(rows, 0, it, learn, start=first)
    assert_identical(deltas_of(rows.state(0)), deltas_of(before))
    assert writes_of(rows, 0) == counts
    assert rows.teaching_tokens(it.origins[first:], learn[first:]) == 0
    assert rows.teaching_tokens(it.origins[first:]) > 0


def test_what_an_earlier_turn_taught_becomes_active_inside_such_a_turn() -> None:
    told = PERIOD - 30
    learn = [place < told for place in range(PERIOD + DELAY)]
    rows, it = SessionRows(tiny_model(), 1), text(PERIOD + DELAY)
    read(rows, 0, it, learn)
    assert writes_of(rows, 0) == ((1,), (0,))
    other = SessionRows(tiny_model(), 1)
    read(other, 0, it, [True] * len(it))
    found, whole = deltas_of(rows.state(0)), deltas_of(other.state(0))
    assert not all(torch.equal(found[name], whole[name]) for name in found), (
        "its own words were in the lesson"
    )


def test_steps_runs_and_a_loaded_boundary_come_to_the_same_bits() -> None:
    it = text(BLOCK + DELAY + 2 * PERIOD)
    learn = [place // 50 % 2 == 0 for place in range(len(it))]
    boundaries = {}
    whole = SessionRows(tiny_model(), 1, on_boundary=lambda _, at, state: boundaries.update({at: state}))
    read(whole, 0, it, learn)
    steps = SessionRows(tiny_model(), 1)
    read(steps, 0, it, learn, steps=True)
    assert_identical(steps.state(0), whole.state(0))
    loaded = SessionRows(tiny_model(), 1)
    loaded.load(0, boundaries[BLOCK])
    read(loaded, 0, it, learn, start=BLOCK)
    assert_identical(loaded.state(0), whole.state(0))


def test_rows_of_one_launch_each_have_their_own() -> None:
    """A row that learns beside one that does not is the row that learns alone."""
    it = text(PERIOD + DELAY)
    both, alone = SessionRows(tiny_model(), 2), SessionRows(tiny_model(), 1)
    for token, origin in zip(it.tokens, it.origins, strict=True):
        both.decode([0, 1], [token, token], origin, [True, False])
        alone.decode([0], [token], origin)
    assert writes_of(both, 0) == ((1,), (0,))
    assert writes_of(both, 1) == ((0,), (0,))
    assert_identical({k: v[:1] for k, v in both.state(0).items()}, alone.state(0))
