"""More live sessions than slots, the short form of ``tests/bench/live_sessions.py``."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bench" / "live_sessions.py"


def test_sessions_lose_nothing_on_few_slots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each session is evicted between its turns, to the host's memory."""
    few = ["--sessions", "12", "--slots", "3", "--rounds", "3", "--concurrency", "3", "--verify", "3"]
    few += ["--threads", "1"]
    assert runpy.run_path(str(SCRIPT))["main"]([*few, "--json", str(tmp_path / "f")]) == 0
    found = json.loads((tmp_path / "f").read_text())
    assert found["wrong"] == []
    assert found["turns"] >= 3 * 12
    hits = next(value for name, value in found["host_tier"].items() if 'result="hit"' in name)
    assert hits >= 2 * 12 - 6
    assert "12 sessions, 3 slots" in capsys.readouterr().out


def test_a_slope_is_that_of_the_later_half() -> None:
    slope = runpy.run_path(str(SCRIPT))["slope"]
    assert slope([(0, 0), (10, 900), (20, 100), (30, 120)]) == pytest.approx(2.0)
    assert slope([(0, 5)]) == 0.0
