"""Records on disk: gone on with, never mixed, nothing overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from hope_model.errors import ConfigError, DataError, EvaluationError
from hope_model.evaluate.ledger import Ledger, of

SETTINGS = {"models": {"a": None}, "lengths": [1, 2]}


def _filled(folder: Path) -> Path:
    with Ledger(folder, "needle", SETTINGS) as ledger:
        ledger.add({"n": 1, "right": True})
        ledger.add({"n": 2, "right": False})
    return folder / "needle.jsonl"


def test_records_are_found_again(tmp_path: Path) -> None:
    _filled(tmp_path)
    with Ledger(tmp_path, "needle", SETTINGS) as ledger:
        assert ledger.find(n=2) == {"n": 2, "right": False}
        assert ledger.find(n=3) is None
        assert of(ledger.records, right=True) == [{"n": 1, "right": True}]
        ledger.add({"n": 3})
    assert len(Ledger(tmp_path, "needle", SETTINGS).records) == 3


def test_a_record_cut_off_by_a_crash_is_found_anew(tmp_path: Path) -> None:
    path = _filled(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with Ledger(tmp_path, "needle", SETTINGS) as ledger:
        assert [each["n"] for each in ledger.records] == [1]
        ledger.add({"n": 2, "right": False})
    assert path.read_bytes() == whole


def test_other_settings_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    before = _filled(tmp_path).read_bytes()
    with pytest.raises(ConfigError, match=r"other settings: expected lengths \[1, 3\], found \[1, 2\]"):
        Ledger(tmp_path, "needle", SETTINGS | {"lengths": [1, 3]})
    with pytest.raises(ConfigError, match="expected seed 1, found null"):
        Ledger(tmp_path, "needle", SETTINGS | {"seed": 1})
    assert (tmp_path / "needle.jsonl").read_bytes() == before


@pytest.mark.parametrize("suffix", ["json", "md", "png"])
def test_results_without_records_are_not_overwritten(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"needle.{suffix}").write_text("somebody's")
    with pytest.raises(ConfigError, match=f"without results, found needle.{suffix}"):
        Ledger(tmp_path, "needle", SETTINGS)


def test_nothing_is_made_before_something_is_found(tmp_path: Path) -> None:
    with Ledger(tmp_path / "out", "needle", SETTINGS):
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "message"), [("no json", "expected JSON"), ("[1]", r"expected an object, found \[1\]")]
)
def test_a_broken_record_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = _filled(tmp_path)
    path.write_text(path.read_text() + f"{row}\n")
    with pytest.raises(DataError, match=f"needle.jsonl, row 4: {message}"):
        Ledger(tmp_path, "needle", SETTINGS)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Ledger(tmp_path / "file" / "below", "needle", SETTINGS) as ledger, pytest.raises(DataError):
        ledger.add({"n": 1})


def test_a_server_that_goes_away_leaves_what_was_found(tmp_path: Path) -> None:
    def measure() -> None:
        with Ledger(tmp_path, "needle", SETTINGS) as ledger:
            ledger.add({"n": 1})
            raise EvaluationError("gone")

    with pytest.raises(EvaluationError, match=r"gone; what was found so far is in .*needle\.jsonl: the same"):
        measure()
    assert Ledger(tmp_path, "needle", SETTINGS).find(n=1) is not None
