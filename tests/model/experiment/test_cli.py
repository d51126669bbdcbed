"""``hope experiment`` as a command."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tests.model.experiment.conftest import made_result
from tests.model.experiment.tiny import SETTINGS, opened, tiny_tokenizer

from hope_model.errors import ConfigError
from hope_model.experiment import cli, report, runner, settings
from hope_model.experiment.cli import add_parser
from hope_model.experiment.plan import ALL, SYSTEMS, chosen
from hope_model.experiment.results import write_result
from hope_model.experiment.runner import Places
from hope_model.tokenizer import Tokenizer


def _run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["experiment", *arguments])
    code: int = args.run_command(args)
    return code


def test_the_list_says_what_is_finished_and_what_the_rest_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path, ALL["retnet"], made_result("retnet", 5.5))
    assert _run("list", "--results", str(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 23
    assert lines[0].split() == ["transformer", "0.4", "core", "hours"]
    assert lines[1].split() == ["retnet", "5.5000", "nats"]


def test_report_and_compare_as_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "draw_all", lambda results, folder: [])
    for name, loss in {"hope": 5.0, "hope-seed-2": 5.01, "hope-seed-3": 4.99}.items():
        write_result(tmp_path / "results", ALL[name], made_result(name, loss))
    write_result(tmp_path / "again", ALL["hope"], made_result("hope", 5.02))
    out = tmp_path / "out.md"
    assert _run("report", "--results", str(tmp_path / "results"), "--out", str(out)) == 0
    assert out.read_text().startswith("# Experiments")
    compare = ["compare", str(tmp_path / "again"), "--results", str(tmp_path / "results")]
    assert _run(*compare) == 0
    assert "within the noise of 0.0277" in capsys.readouterr().out
    assert _run("compare", str(tmp_path / "none"), "--results", str(tmp_path / "results")) == 1


@pytest.mark.parametrize("flag", ["--minutes", "--jobs", "--threads"])
def test_numbers_below_one_are_refused(tmp_path: Path, flag: str) -> None:
    places = [f"--{name}={tmp_path / name}" for name in ("data", "kit", "work", "results")]
    with pytest.raises(ConfigError, match=f"{flag[2:]}: expected a positive number, found 0"):
        _run("run", *places, flag, "0")
    with pytest.raises(ConfigError, match=r"only: expected one of .*, found 'nothing'"):
        _run("run", *places, "--only", "nothing")
    assert not list(tmp_path.iterdir())


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_the_time_limit_is_a_ctrl_c_also_in_the_background(handler: signal.Handlers) -> None:
    """Where a shell has it ignored."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt), cli._time_limit(1e-4):
            signal.pause()
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_was_stopped_goes_on(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = opened(places)
    made: list[str] = []
    monkeypatch.setattr(runner, "train", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli.make_all(experiment, chosen(["retnet"]))
    assert not places.results.exists()
    monkeypatch.setattr(experiment, "make", lambda run: made.append(run.name))
    cli.make_all(experiment, None)
    assert made[: len(SYSTEMS)] == [run.name for run in SYSTEMS]
    assert len(made) == 23


def test_the_command_makes_runs_until_its_time_is_up(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unmeasured = {"heldout": {"loss": 1.0}, "streams": {}, "levels": [], "recall": {}, "tasks": {}}
    monkeypatch.setattr(settings, "ExperimentSettings", lambda: SETTINGS)
    monkeypatch.setattr(Tokenizer, "load", lambda path: tiny_tokenizer())
    monkeypatch.setattr(runner, "evaluate", lambda *arguments: unmeasured)
    given = [f"--{name}={getattr(places, name)}" for name in ("data", "kit", "work", "results")]
    assert _run("run", *given, "--threads", str(torch.get_num_threads()), "--only", "retnet") == 0
    assert [path.name for path in places.results.iterdir()] == ["retnet.json"]
    capsys.readouterr()
    monkeypatch.setattr(runner, "Experiment", lambda *arguments, **named: None)
    monkeypatch.setattr(cli, "make_all", lambda experiment, only: threading.Event().wait(60))
    assert _run("run", *given, "--threads", str(torch.get_num_threads()), "--minutes", "1e-5") == 130
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command goes on"
    assert [path.name for path in places.results.iterdir()] == ["retnet.json"]


def test_jobs_are_processes_with_the_same_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    class Started:
        def __init__(self, command: list[str]) -> None:
            started.append(command)

        def wait(self) -> None:
            started.append(["waited"])

    monkeypatch.setattr(subprocess, "Popen", Started)
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    given = ["run", "--data", "d", "--kit", "k", "--work", "w", "--results", "r", "--only", "hope", "retnet"]
    args = parser.parse_args(["experiment", *given, "--jobs", "3", "--threads", "2", "--minutes", "5"])
    with cli._helpers(args):
        assert len(started) == 2
    assert started[2:] == [["waited"]] * 2
    assert started[0] == started[1]
    assert started[0][:3] == [sys.executable, "-m", "hope_model.experiment"]
    again = parser.parse_args(["experiment", *started[0][3:]])
    assert {**vars(again), "jobs": 3} == vars(args)


def test_a_run_that_failed_in_another_job_is_a_failure(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failed:
        returncode = 2

        def __init__(self, command: list[str]) -> None:
            pass

        def wait(self) -> None:
            pass

    monkeypatch.setattr(subprocess, "Popen", Failed)
    monkeypatch.setattr(runner, "Experiment", lambda *arguments, **named: None)
    monkeypatch.setattr(cli, "make_all", lambda experiment, only: None)
    given = [f"--{name}={getattr(places, name)}" for name in ("data", "kit", "work", "results")]
    given += ["--threads", str(torch.get_num_threads())]
    assert [_run("run", *given, "--jobs", jobs) for jobs in ("1", "2")] == [0, 2]


def test_a_module_of_its_own_says_errors_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "hope.json").write_text("{")
    command = [sys.executable, "-m", "hope_model.experiment", "list", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"hope experiment: {tmp_path / 'hope.json'}: expected JSON")
    (tmp_path / "hope.json").unlink()
    command = [*command[:3], "report", "--results", str(tmp_path), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
