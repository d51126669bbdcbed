"""The short form of ``tests/bench/turn_cost.py``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.bench import turn_cost


@pytest.mark.slow
def test_a_turn_is_measured_beside_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "found"), "--plot", str(tmp_path / "plot.png")]
    monkeypatch.setattr(
        sys, "argv", ["turn_cost", "--at", "1", "4", "--repeats", "1", "--reread", "1", *files]
    )
    turn_cost.main()
    points = json.loads((tmp_path / "found").read_text())["points"]
    assert [point["turn"] for point in points] == [1, 4]
    assert ["reread_s" in point for point in points] == [True, False]
    assert all(value > 0 for point in points for value in point.values())
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert "| 4 |" in capsys.readouterr().out


def test_a_chat_goes_on_to_the_turn_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes between is read, and taught nothing, in as many tokens as its turns have."""
    chats = object.__new__(turn_cost.Chats)
    chats.turns = 3
    read: list[tuple[int, str]] = []
    monkeypatch.setattr(chats, "_some", lambda tokens: (1,) * tokens, raising=False)
    monkeypatch.setattr(
        chats,
        "_run",
        lambda _name, tokens, _answer, origin: read.append((len(tokens), origin)),
        raising=False,
    )
    chats.read_up_to(250)
    assert sum(tokens for tokens, _ in read) == 247 * turn_cost.TURN_TOKENS
    assert {origin for _, origin in read} == {"model"}
    assert chats.turns == 250
