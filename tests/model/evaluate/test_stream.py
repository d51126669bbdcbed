"""Three readers of one stream: what they read, what they may learn, and which tokens are compared."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from hope_model.errors import DataError
from hope_model.evaluate import stream
from hope_model.evaluate.stream import (
    StreamLosses,
    StreamSettings,
    read_losses,
    stream_losses,
    without_cms_writes,
)
from hope_model.hope import Hope
from hope_model.state import State

SETTINGS = StreamSettings(stream=96, judged_from=48, lead=16, run=8)


class Stub:
    """Logits that depend on one thing only: the token asked for, or how many tokens the session has read."""

    def __init__(self, *, by_position: bool) -> None:
        self.by_position = by_position
        self.chances = torch.randn(300, generator=torch.Generator().manual_seed(1)).log_softmax(0)

    def initial_state(self, rows: int) -> State:
        return {"position": torch.zeros(rows, dtype=torch.long)}

    def __call__(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        logits = self.chances.expand(*tokens.shape, 300).clone()
        if self.by_position:
            logits[:] = 0.0
            logits[..., 0] = -state["position"][:, None] - torch.arange(1.0, tokens.shape[1] + 1)
        return logits, {"position": state["position"] + tokens.shape[1]}


def _tokens(length: int, rows: int = 2) -> Tensor:
    return torch.randint(300, (rows, length), generator=torch.Generator().manual_seed(length))


def _stub_losses(monkeypatch: pytest.MonkeyPatch, tokens: Tensor, *, by_position: bool) -> list[StreamLosses]:
    monkeypatch.setattr(stream, "without_cms_writes", lambda model: model)
    model = cast(Hope, Stub(by_position=by_position))
    return stream_losses(model, [(f"s{i}", ids.tolist()) for i, ids in enumerate(tokens)], SETTINGS)


@pytest.mark.parametrize("run", [1, 7, 32, 99, 1000])
def test_losses_do_not_depend_on_the_run_length(model: Hope, run: int) -> None:
    tokens = _tokens(101)
    expected, end = read_losses(model, tokens, model.initial_state(2), 100)
    losses, state = read_losses(model, tokens, model.initial_state(2), run)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, end, rtol=1e-3, atol=1e-4)


def test_losses_are_those_of_the_next_tokens(model: Hope) -> None:
    tokens = _tokens(50)
    losses, _ = read_losses(model, tokens, model.initial_state(2), 16)
    logits, _ = model(tokens[:, :-1], model.initial_state(2))
    expected = -logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


def test_reading_goes_on_from_the_given_state(model: Hope) -> None:
    tokens = _tokens(81)
    whole, _ = read_losses(model, tokens, model.initial_state(2), 16)
    _, state = read_losses(model, tokens[:, :41], model.initial_state(2), 16)
    rest, _ = read_losses(model, tokens[:, 40:], state, 16)
    torch.testing.assert_close(rest, whole[:, 40:], rtol=1e-4, atol=1e-5)


def _size(state: State, ending: str) -> float:
    return sum(float(tensor.abs().sum()) for name, tensor in state.items() if name.endswith(ending))


@pytest.mark.parametrize("level", ["cms-8", "cms-32"])
def test_without_cms_writes_a_level_stays_as_trained(model: Hope, level: str) -> None:
    still, tokens = without_cms_writes(model), _tokens(100)
    _, learned = model(tokens, model.initial_state(2))
    _, frozen = still(tokens, still.initial_state(2))
    assert _size(learned, f"{level}.delta") > 0
    assert _size(frozen, f"{level}.delta") == 0


@pytest.mark.parametrize("memory", ["phi.memory", "phi.projections"])
def test_without_cms_writes_phi_still_learns(model: Hope, memory: str) -> None:
    still = without_cms_writes(model)
    _, frozen = still(_tokens(100), still.initial_state(2))
    assert _size(frozen, memory) > 0


def test_without_cms_writes_only_the_writes_of_phi_are_counted(model: Hope) -> None:
    still = without_cms_writes(model)
    _, frozen = still(_tokens(100), still.initial_state(2))
    names = [level.name for level in still.state_spec.learning_levels]
    assert dict(zip(names, frozen["writes"][0].tolist(), strict=True)) == {
        "phi": 100,
        "projections": 12,
        "cms-8": 0,
        "cms-32": 0,
    }


def test_without_cms_writes_nothing_changes_before_the_first_one(model: Hope) -> None:
    still, tokens = without_cms_writes(model), _tokens(33)
    learned, _ = read_losses(model, tokens, model.initial_state(2), 32)
    frozen, _ = read_losses(still, tokens, still.initial_state(2), 32)
    torch.testing.assert_close(frozen[:, :8], learned[:, :8], rtol=1e-4, atol=1e-5)
    assert not torch.isclose(frozen[:, 8:], learned[:, 8:], rtol=1e-4).all()


def test_the_model_itself_goes_on_writing(model: Hope) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    still = without_cms_writes(model)
    assert [level.period for level in model.config.levels] == [8, 32]
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(dict(still.state_dict()), before, rtol=0, atol=0)


def test_all_three_are_judged_on_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = _tokens(97, rows=3)
    for losses, ids in zip(_stub_losses(monkeypatch, tokens, by_position=False), tokens, strict=True):
        expected = -Stub(by_position=False).chances[ids[49:]]
        for judged in (losses.carried[48:], losses.frozen[48:], losses.fresh):
            torch.testing.assert_close(judged, expected)


def test_a_fresh_session_starts_one_lead_before_its_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    (losses,) = _stub_losses(monkeypatch, torch.zeros(1, 97, dtype=torch.long), by_position=True)
    by_read = losses.carried  # the loss of a session that has read 1, 2, 3, ... tokens
    assert losses.fresh is not None
    assert losses.fresh.tolist() == by_read[16:32].tolist() * 3


def test_carried_and_frozen_read_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    (losses,) = _stub_losses(monkeypatch, torch.zeros(1, 97, dtype=torch.long), by_position=True)
    for read in (losses.carried, losses.frozen):
        assert len(set(read.tolist())) == len(read) == 96


def test_the_frozen_reader_is_the_one_without_cms_writes(model: Hope) -> None:
    tokens, still = _tokens(97, rows=1), without_cms_writes(model)
    (losses,) = stream_losses(model, [("s", tokens[0].tolist())], SETTINGS)
    expected, _ = read_losses(still, tokens, still.initial_state(1), 8)
    torch.testing.assert_close(losses.frozen, expected[0])
    assert not torch.isclose(losses.frozen, losses.carried, rtol=1e-4).all()


def test_each_stream_is_read_as_if_alone(model: Hope) -> None:
    streams = [(f"s{i}", ids.tolist()) for i, ids in enumerate(_tokens(120, rows=3))]
    together = stream_losses(model, streams, SETTINGS)
    (alone,) = stream_losses(model, streams[1:2], SETTINGS)
    for name in ("carried", "frozen", "fresh"):
        torch.testing.assert_close(getattr(together[1], name), getattr(alone, name), rtol=1e-4, atol=1e-5)
    assert [losses.name for losses in together] == ["s0", "s1", "s2"]


def test_the_summary_compares_the_judged_tokens() -> None:
    settings = StreamSettings(stream=4, judged_from=2, lead=1, run=1)
    losses = StreamLosses(
        "s",
        carried=torch.tensor([5.0, 5.0, 1.0, 2.0]),
        frozen=torch.tensor([5.0, 6.0, 2.0, 4.0]),
        fresh=torch.tensor([1.0, 3.0]),
        settings=settings,
    )
    assert losses.summary() == {
        "carried": 1.5,
        "fresh": 2.0,
        "frozen": 3.0,
        "carried_minus_fresh": -0.5,
        "gain_of_learning": 1.5,
        "gain_of_learning_whole_stream": 1.0,
    }


def test_a_stream_that_is_too_short_is_named(model: Hope) -> None:
    streams = [("long", [1] * 97), ("short", [1] * 96)]
    with pytest.raises(DataError, match=r"^short: expected at least 97 tokens, found 96"):
        stream_losses(model, streams, SETTINGS)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"lead": 0}, "0 < lead"),
        ({"lead": 64}, "0 < lead <= judged_from"),
        ({"judged_from": 96}, "judged_from < stream"),
        ({"judged_from": 44}, "whole runs"),
        ({"lead": 12}, "whole runs"),
        ({"stream": 104}, "whole stretches"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths: dict[str, Any], message: str) -> None:
    given = {"stream": 96, "judged_from": 48, "lead": 16, "run": 8}
    with pytest.raises(DataError, match=message):
        StreamSettings(**{**given, **lengths})
