"""`hope convert` on the command line: its arguments, what it prints, and how progress looks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.model.convert.builders import (
    no_memory,
    random_weights,
    read_checkpoint,
    tiny_backbone,
    write_folder,
)

from hope_model.attention.backbone import tensor_shapes
from hope_model.convert.cli import add_parser
from hope_model.convert.progress import console_progress
from hope_model.errors import ConversionError


@pytest.fixture(autouse=True)
def trivial_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = ModuleType("hope_model.attention.calibrate")
    calibration.__dict__["calibrate"] = no_memory
    monkeypatch.setitem(sys.modules, calibration.__name__, calibration)


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["convert", *arguments])
    status: int = parsed.run_command(parsed)
    return status


@pytest.fixture
def source(tmp_path: Path) -> str:
    weights = random_weights(tensor_shapes(tiny_backbone(layers=1)))
    return str(write_folder(tmp_path / "My model", weights, num_hidden_layers=1))


def test_the_folder_is_printed(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert run(source, "--out", out, "--name", "x", "--dtype", "float32") == 0
    first = capsys.readouterr()
    assert first.out == out + "\n"
    assert first.err.splitlines()[-2:] == ["writing weights", "converted"]
    config, weights = read_checkpoint(Path(out))
    assert config["model"]["name"] == "x"
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}
    assert run(source, "--out", out, "--dtype", "float32") == 0
    assert capsys.readouterr().err.splitlines()[-1] == "already converted"


def test_the_cache_and_the_sources_name_are_the_default(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run(source)
    assert capsys.readouterr().out == str(tmp_path / "cache" / "hope" / "models" / "My-model") + "\n"


def test_errors_are_left_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="found none"):
        run(str(tmp_path / "nothing"))


def test_steps_are_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with console_progress() as progress:
        progress("one [bold]", 1, 2)
        progress("one [bold]", 2, 2)
        progress("two")
    assert capsys.readouterr().err == "one [bold]\ntwo\n"


def test_steps_are_bars_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with console_progress() as progress:
        progress("one [bold]", 1, 2)
        progress("one [bold]", 2, 2)
        progress("two")
    shown = capsys.readouterr().err
    assert "one [bold]" in shown
    assert "100%" in shown
    assert shown.rstrip().endswith("two")
