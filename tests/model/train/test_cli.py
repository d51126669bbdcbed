"""``hope train`` as a command."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from hope_model.checkpoint import load_checkpoint
from hope_model.errors import ConfigError, DataError, HopeModelError, TokenizerError
from hope_model.train import trainer
from hope_model.train.cli import add_parser
from hope_model.train.log import read_log
from hope_model.train.settings import TrainSettings

SCRIPT = Path(__file__).with_name("train_with_config.py")


def _parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["train", *arguments])


def _arguments(corpus: Path, run: Path, *more: str) -> list[str]:
    given = f"--model test --rows 2 --window 40 --warmup 2 --precision float32 --data {corpus} --run {run}"
    return [*given.split(), "--mixture", str(corpus / "mixture.json"), *more]


def _run(*arguments: str) -> int:
    args = _parse(*arguments)
    code: int = args.run_command(args)
    return code


@contextmanager
def _process(config_file: Path, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(SCRIPT), str(config_file), *arguments, "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_flags_have_the_defaults_of_the_settings() -> None:
    args = _parse("--data", "d", "--run", "r")
    assert (
        TrainSettings(**{field.name: getattr(args, field.name) for field in fields(TrainSettings)})
        == TrainSettings()
    )


@pytest.mark.parametrize("name", [field.name for field in fields(TrainSettings)])
def test_every_setting_has_a_flag(name: str) -> None:
    default = getattr(TrainSettings(), name)
    given = {int: "7", float: "0.5"}.get(type(default), "none" if name == "levels" else "bfloat16")
    args = _parse("--data", "d", "--run", "r", "--" + name.replace("_", "-"), given)
    assert getattr(args, name) == type(default)(given) != default


def test_a_command_trains_tokenizer_and_model_and_exports(
    corpus: Path, config_file: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    with _process(config_file, _arguments(corpus, run, "--tokens", "4000", "--export", str(out))) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    model, tokenizer = load_checkpoint(out)
    assert tokenizer.vocab_size == model.config.vocab_size == 300
    assert "step 50/50 loss" in output
    assert [record["step"] for record in read_log(run / "log.jsonl")] == list(range(1, 51))
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_sigterm_saves_and_the_same_command_goes_on(corpus: Path, config_file: Path, tmp_path: Path) -> None:
    arguments, logs = _arguments(corpus, tmp_path, "--tokens", "8000000"), []
    for line in ("step 50/", "step 100/"):
        with _process(config_file, arguments) as process:
            assert process.stdout is not None
            output = next((text for text in process.stdout if text.startswith(line)), None)
            assert output is not None, "the run ended before the step"
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate()
        assert process.returncode == 130
        assert f"go on with the same command (--run {tmp_path})" in rest
        logs.append(read_log(tmp_path / "log.jsonl"))
        saved = json.loads((tmp_path / "latest.json").read_text())["step"]
        assert [record["step"] for record in logs[-1]] == list(range(1, saved + 1))
    assert len(logs[0]) >= 50
    assert logs[1][: len(logs[0])] == logs[0]


def test_a_stopped_run_is_not_exported(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", interrupted)
    assert _run(*_arguments(corpus, tmp_path / "run", "--export", str(tmp_path / "out"))) == 130
    assert not (tmp_path / "out").exists()


def test_a_given_tokenizer_is_not_trained_anew(corpus: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"none\.json: cannot be read"):
        _run(*_arguments(corpus, tmp_path, "--tokenizer", str(tmp_path / "none.json")))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--threads", "0"], ConfigError, "threads: expected a positive integer"),
        (["--rows", "0"], ConfigError, "rows: expected a positive integer"),
        (["--model", "hope-huge"], ConfigError, "unknown configuration 'hope-huge'"),
        (["--mixture", "mine"], DataError, "mixture: expected one of core"),
        (["--mixture", "none.json"], DataError, r"none\.json: cannot be read"),
        (["--data", "/nowhere"], DataError, "no file in /nowhere"),
    ],
)
def test_a_bad_argument_is_named(
    corpus: Path, tmp_path: Path, arguments: list[str], kind: type[HopeModelError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        _run(*_arguments(corpus, tmp_path / "run", *arguments))
    assert not (tmp_path / "run").exists()


def test_an_unknown_precision_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _parse("--data", "d", "--run", "r", "--precision", "float16")
    assert "invalid choice: 'float16'" in capsys.readouterr().err
