"""The speed benchmark trains both models as the trainer does; what it finds is not judged here."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from hope_model.train.settings import TrainSettings

SCRIPT = Path(__file__).parents[2] / "bench" / "train_speed.py"


def test_the_benchmark_compares_models_of_one_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    main(
        ["--model", "test", "--rows", "2", "--window", "40", "--repeats", "3", "--json", str(tmp_path / "f")]
    )
    figures = json.loads((tmp_path / "f").read_text())
    assert figures["parameters"]["hope"] == pytest.approx(figures["parameters"]["transformer"], rel=0.01)
    assert {name: len(times) for name, times in figures["step_s"].items()} == {"hope": 3, "transformer": 3}
    assert figures["tokens_per_s"]["hope"] == pytest.approx(80 / sorted(figures["step_s"]["hope"])[1])
    assert f"| training tokens/s | {figures['ratio']:.2f} |" in capsys.readouterr().out


def test_its_defaults_are_those_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(SCRIPT))
    asked: list[TrainSettings] = []
    monkeypatch.setitem(
        script["main"].__globals__, "measure", lambda settings, repeats: asked.append(settings)
    )
    monkeypatch.setitem(script["main"].__globals__, "table", lambda figures: "")
    script["main"]([])
    assert asked == [TrainSettings()]
