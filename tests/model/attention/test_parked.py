"""A row that has learned, taken out of its slabs and put back."""

from __future__ import annotations

import torch
from tests.model.attention.tiny import PERIOD, USABLE, VOCAB, tiny_model
from tests.model.small import assert_identical

from hope_model.attention.rows import SessionRows

START = 2 * PERIOD + 6
"""What the first period taught is active by then; the second one taught nothing, so no write is begun."""


def token(place: int) -> int:
    return (11 * place + place * place // 7) % VOCAB


def read(rows: SessionRows, row: int, upto: int) -> torch.Tensor:
    logits = torch.empty(0)
    while (start := rows.position(row)) < upto:
        count = min(rows.room(row), upto - start)
        tokens = [token(place) for place in range(start, start + count)]
        logits = rows.read(row, tokens, ["user"] * count, [start < PERIOD] * count)
    return logits


def test_it_goes_on_in_another_row_as_if_it_had_never_left() -> None:
    """Read with what it has learned, among which are the encoding and the writes that it begins later."""
    model = tiny_model()
    rows, left = SessionRows(model, 2), SessionRows(model, 1)
    read(rows, 0, START)
    parked = rows.park(0)
    assert parked is not None
    assert any(bool(tensor.any()) for tensor in parked.slabs.active.values())
    rows.clear(0)
    rows.unpark(1, parked)
    read(left, 0, START)
    assert torch.equal(read(rows, 1, USABLE + 5), read(left, 0, USABLE + 5))
    assert_identical(rows.state(1), left.state(0))


def test_a_row_that_has_begun_a_write_stays() -> None:
    rows = SessionRows(tiny_model(), 1)
    read(rows, 0, PERIOD + 1)
    assert rows.park(0) is None
