"""Decoding in place: a row whose writes are refused three times in a row, and one that learns no more."""

from __future__ import annotations

import torch
from tests.model.small import build
from tests.model.test_decoding import EXACT, assert_close, config, decode, stepped, tokens_of

from hope_model.decoding import DecodeRows
from hope_model.streaks import LIMIT, Frozen


def test_a_frozen_row_follows_the_models_own_step_and_keeps_nothing(path: str) -> None:
    """Beside one that learns, over the ends of runs, chunks and periods."""
    model = build(config(), torch.float32)
    rows = DecodeRows(model, 2, dtype=torch.float32, path=path)
    _, state = stepped(model, model.initial_state(1), tokens_of(0, 128))
    state["frozen"] = torch.tensor([int(Frozen.JOURNAL)])
    rows.clear(0)
    rows.load(1, state)
    before = rows.state(1)
    for token, other in zip(tokens_of(0, 170)[128:], tokens_of(1, 42), strict=True):
        logits = rows.step([0, 1], [other, token])
    expected, after = stepped(model, state, tokens_of(0, 170)[128:])
    torch.testing.assert_close(logits[1], expected, rtol=EXACT, atol=EXACT)
    assert_close(rows.state(1), after)
    moved = [name for name, tensor in rows.state(1).items() if not torch.equal(tensor, before[name])]
    assert {name.rsplit(".", 1)[-1] for name in moved} == {"position", "window", "last_key"}
    alone = DecodeRows(model, 1, dtype=torch.float32, path=path)
    alone.clear(0)
    decode(alone, 0, tokens_of(1, 42))
    found, own = rows.state(0), alone.state(0)
    assert [name for name in own if not torch.equal(found[name], own[name])] == []


def test_the_third_refused_write_ends_learning(path: str) -> None:
    model = build(config(), torch.float32)
    rows = DecodeRows(model, 1, dtype=torch.float32, path=path)
    _, state = stepped(model, model.initial_state(1), tokens_of(0, 128))
    state["layers.0.phi.memory"] = torch.full_like(state["layers.0.phi.memory"], torch.nan)
    rows.load(0, state)
    for read in range(1, LIMIT + 2):
        decode(rows, 0, [3])
        _, _, refused, frozen, good = rows.counts(0)
        assert (refused[0], good) == (min(read, LIMIT), 128)
        assert frozen is (Frozen.NON_FINITE if read >= LIMIT else Frozen.NO)
