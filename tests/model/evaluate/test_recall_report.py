"""The recall report: figures by hand, as JSON, Markdown and a plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hope_model.evaluate.recall import Distance, Judged, RecallResult
from hope_model.evaluate.recall_report import markdown, summary, write_recall
from hope_model.evaluate.sanity import Sanity

ABOUT = {"model": "tiny", "people": 2}


def _judged(*right: bool) -> list[Judged]:
    return [
        Judged(person, "dog", (-1.0, -3.0, -4.0) if fine else (-5.0, -2.5, -6.0), free=fine and person == 0)
        for person, fine in enumerate(right)
    ]


def _distance(windows: float, on: tuple[bool, ...], off: tuple[bool, ...]) -> Distance:
    judged = {"on": _judged(*on), "off": _judged(*off), "ceiling": _judged(True, True, True, False)}
    return Distance(windows, windows * 256 + 10, judged, [Sanity(0.01, 0.2), Sanity(0.05, 0.4)])


NEAR = _distance(2.0, (True, True, False, False), (True, False, False, False))
FAR = _distance(8.5, (True, False, False, False), (True, True, True, False))
RESULT = RecallResult([NEAR, FAR], 0.125)


def test_a_distance_is_summed_up() -> None:
    found = summary(NEAR, 0.125)
    assert found["on"] == {"accuracy": 0.5, "right": -3.0, "best_wrong": -2.75, "free": 0.25}
    assert found["off"]["accuracy"] == 0.25
    assert found["ceiling"]["accuracy"] == 0.75
    assert found["gap_closed"] == pytest.approx(0.5)
    assert (found["windows"], found["tokens"], found["questions"]) == (2.0, 522.0, 4)
    assert found["sanity"] == {
        "sessions": 2,
        "kl": pytest.approx(0.03),
        "kl_worst_session": 0.05,
        "repetition": pytest.approx(0.3),
        "repetition_unadapted": 0.125,
    }


def test_without_a_gap_none_is_closed() -> None:
    assert summary(FAR, 0.0)["gap_closed"] is None


def test_sanity_stands_beside_recall() -> None:
    lines = markdown(RESULT, ABOUT).splitlines()
    assert "- model: tiny" in lines
    assert "| 2 | 522 | 4 | 0.500 | 0.250 | 0.750 | 0.500 |" in lines
    assert "| 8.5 | 2186 | 4 | 0.250 | 0.750 | 0.750 | - |" in lines
    assert "| 2 | on | -3.000 | -2.750 | 0.250 |" in lines
    assert "| 8.5 | 2 | 0.0300 | 0.0500 | 0.3000 | 0.1250 |" in lines


def test_files_hold_the_same_and_every_question(tmp_path: Path) -> None:
    text = write_recall(RESULT, ABOUT, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert (folder / "recall.md").read_text(encoding="utf-8") == text == markdown(RESULT, ABOUT)
    content = json.loads((folder / "recall.json").read_text(encoding="utf-8"))
    assert content["model"] == "tiny"
    assert content["chance"] == 0.125
    assert content["distances"] == [summary(NEAR, 0.125), summary(FAR, 0.125)]
    assert len(content["questions"]) == 24
    assert content["questions"][1] == {
        "windows": 2.0,
        "condition": "on",
        "person": 1,
        "kind": "dog",
        "scores": [-1.0, -3.0, -4.0],
        "free": False,
    }
    assert (folder / "recall.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_recall(RESULT, ABOUT, tmp_path)
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recall.json", "recall.md"]
