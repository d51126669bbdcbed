"""Streams read by sessions of a pre-trained model: which tokens are judged, and with what memory."""

from __future__ import annotations

import pytest
import torch
from tests.model.convert.builders import VOCAB
from tests.model.evaluate import talking
from torch.nn import functional as F

from hope_model.attention.rows import SessionRows
from hope_model.errors import DataError
from hope_model.evaluate.attention_stream import attention_stream_losses, session_losses
from hope_model.evaluate.stream import StreamSettings

SETTINGS = StreamSettings(stream=400, judged_from=200, lead=None)
MEMORY = talking.CONFIG.memory
ACTIVE = MEMORY.levels[0].period + MEMORY.delay
"""Tokens until the first write counts."""


def _ids(count: int = 401, seed: int = 0) -> list[int]:
    make = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (count,), generator=make).tolist()


@pytest.mark.parametrize("origin", ["text", "user"])
def test_losses_are_those_of_the_next_tokens(origin: str) -> None:
    ids = _ids()
    (found,) = attention_stream_losses(talking.model(), [("s", ids)], SETTINGS, origin=origin)
    logits = talking.model().forward(torch.tensor([ids[:-1]]))[0]
    expected = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    assert found.carried.shape == found.frozen.shape == (400,)
    seen = MEMORY.window  # all tokens before these are in sight
    torch.testing.assert_close(found.frozen[:seen], expected[:seen], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found.frozen[seen + 64 :], expected[seen + 64 :], rtol=1e-4, atol=1e-4)


def test_a_write_counts_from_where_it_is_active() -> None:
    """No token is predicted with what was learned from it."""
    (found,) = attention_stream_losses(talking.model(), [("s", _ids())], SETTINGS)
    torch.testing.assert_close(found.carried[:ACTIVE], found.frozen[:ACTIVE], rtol=0, atol=0)
    differs = (found.carried[ACTIVE:] - found.frozen[ACTIVE:]).abs() > 1e-6
    assert differs.float().mean() > 0.9


def test_what_does_not_teach_changes_nothing() -> None:
    (found,) = attention_stream_losses(talking.model(), [("s", _ids())], SETTINGS, origin="model")
    torch.testing.assert_close(found.carried, found.frozen, rtol=0, atol=0)


def test_learning_a_repeated_text_makes_it_likelier() -> None:
    ids = _ids(40, seed=3) * 11
    (found,) = attention_stream_losses(talking.model(), [("s", ids)], SETTINGS, origin="user")
    assert found.summary()["gain_of_learning"] > 0.05


def test_each_stream_starts_anew() -> None:
    streams = [(f"s{seed}", _ids(seed=seed)) for seed in range(2)]
    together = attention_stream_losses(talking.model(), streams, SETTINGS)
    (alone,) = attention_stream_losses(talking.model(), streams[1:], SETTINGS)
    assert [found.name for found in together] == ["s0", "s1"]
    torch.testing.assert_close(together[1].carried, alone.carried, rtol=0, atol=0)
    torch.testing.assert_close(together[1].frozen, alone.frozen, rtol=0, atol=0)


def test_text_start_teaches_nothing() -> None:
    rows, ids = SessionRows(talking.model(), 1), _ids(201)
    start = _ids(30, seed=5)
    losses = session_losses(rows, ids, "user", start)
    origins, tokens = ["template"] * 30 + ["user"] * 200, [*start, *ids[:-1]]
    rows.clear(0)
    while tokens:
        count = rows.room(0)
        logits = rows.read(0, tokens[:count], origins[:count])
        tokens, origins = tokens[count:], origins[count:]
    assert float(losses[-1]) == pytest.approx(-float(logits.log_softmax(-1)[ids[-1]]), rel=1e-4)


def test_text_start_is_read_but_not_judged() -> None:
    ids = _ids(60)
    losses = session_losses(SessionRows(talking.model(), 1), ids, "text", [7, 8])
    logits = talking.model().forward(torch.tensor([[7, 8, *ids[:-1]]]))[0, 2:]
    expected = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)


def test_a_fresh_session_starts_one_lead_before_its_stretch() -> None:
    settings, ids = StreamSettings(stream=512, judged_from=256, lead=128, run=64), _ids(513)
    (found,) = attention_stream_losses(talking.model(), [("s", ids)], settings, origin="user")
    assert found.fresh is not None
    rows = SessionRows(talking.model(), 1)
    for index, start in enumerate((256, 384)):
        expected = session_losses(rows, ids[start - 128 : start + 129], "user")[128:]
        torch.testing.assert_close(found.fresh[index * 128 :][:128], expected, rtol=0, atol=0)
    assert found.summary()["fresh"] == pytest.approx(float(found.fresh.mean()))


def test_without_fresh_sessions_none_are_summed_up() -> None:
    (found,) = attention_stream_losses(talking.model(), [("s", _ids())], SETTINGS)
    assert found.fresh is None
    assert found.summary().keys() == {
        "carried",
        "frozen",
        "gain_of_learning",
        "gain_of_learning_whole_stream",
    }
    assert found.summary()["carried"] == pytest.approx(float(found.carried[200:].mean()))


def test_a_stream_that_is_too_short_is_named() -> None:
    with pytest.raises(DataError, match=r"^short: expected at least 401 tokens, found 400"):
        attention_stream_losses(talking.model(), [("long", _ids()), ("short", _ids(400))], SETTINGS)


@pytest.mark.parametrize("judged_from", [0, 400])
def test_something_is_judged(judged_from: int) -> None:
    with pytest.raises(DataError, match="expected 0 < judged_from < stream"):
        StreamSettings(stream=400, judged_from=judged_from, lead=None)


def test_reading_all_ends_as_reading_does() -> None:
    ids = _ids(50)
    one, other = SessionRows(talking.model(), 1), SessionRows(talking.model(), 1)
    logits = one.read_all(0, ids, ["user"] * 50)
    torch.testing.assert_close(logits[-1], other.read(0, ids, ["user"] * 50), rtol=1e-4, atol=1e-4)
    assert logits.shape == (50, VOCAB)
    assert one.position(0) == other.position(0) == 50
    torch.testing.assert_close(one.read(0, [1], ["user"]), other.read(0, [1], ["user"]), rtol=0, atol=0)
