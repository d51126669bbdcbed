"""The command `hope`: what each subcommand takes, exit statuses, and that help costs no torch."""

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hope_model.errors import CheckpointError
from hope_server import cli
from hope_server.cli import COMMANDS, main
from hope_server.config import ServerConfig, flag, variable
from hope_server.errors import StartupError

HELP: list[tuple[str, ...]] = [
    (),
    *((name,) for name in COMMANDS),
    ("eval", "stream"),
    ("eval", "bits"),
    ("experiment", "run"),
    ("bench", "decode"),
    ("bench", "serve"),
    ("keys", "create"),
    ("session", "export"),
]


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_needs_nothing_heavy(command: tuple[str, ...]) -> None:
    code = (
        "import sys; from hope_server.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'redis', 'fastapi', 'uvicorn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" ".join(["usage: hope", *command]))


def test_every_command_names_what_runs_it() -> None:
    """`run_command`, since `--run` is an option of `hope train`."""
    required = {
        "serve": ["serve"],
        "chat": ["chat"],
        "train": ["train", "--data", "d", "--run", "r"],
        "keys": ["keys", "list"],
        "session": ["session", "ls"],
        "replay": ["replay", "s"],
        "experiment": ["experiment", "list"],
        "convert": ["convert", "m"],
        "eval": ["eval", "stream", "f", "--out", "o"],
        "bench": ["bench", "serve"],
        "completion": ["completion", "bash"],
    }
    assert required.keys() == COMMANDS.keys()
    for arguments in required.values():
        assert callable(cli.parser_of(arguments[:1]).parse_args(arguments).run_command)


def test_every_setting_is_a_flag_with_its_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in ServerConfig.model_fields:
        assert flag(name) in text
        assert variable(name) in text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StartupError("--port: taken", param="port"), "hope serve: --port: taken"),
        (CheckpointError("model.safetensors: damaged"), "hope serve: model.safetensors: damaged"),
        (CheckpointError("no option a\r\n\tb\nc  d"), "hope serve: no option a b c  d"),
    ],
)
def test_an_error_on_purpose_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    monkeypatch.setattr(cli, "run_serve", _raising(error))
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == said + "\n"


def _raising(error: BaseException) -> Any:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_a_bug_is_not_dressed_up_as_a_user_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run_serve", _raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["serve"])


def test_ctrl_c_has_the_shell_s_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run_serve", _raising(KeyboardInterrupt()))
    assert main(["serve"]) == 130


def test_a_reader_who_leaves_early_is_no_bug() -> None:
    """As in `hope completion bash | head -1`."""
    command = [sys.executable, "-m", "hope_server", "completion", "bash"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_output_that_cannot_be_written_is_one_line() -> None:
    command = [sys.executable, "-m", "hope_server", "completion", "bash"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"hope completion: [Errno 28] No space left on device\n")


def test_a_closed_output_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["completion", "bash"]) == 0


def test_a_file_that_may_not_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/a/b")
    monkeypatch.setattr(cli, "run_serve", _raising(refusal))
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == "hope serve: /a/b: Permission denied\n"


def test_the_status_is_the_command_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run_serve", lambda args: 7)
    assert main(["serve"]) == 7


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["serve", "--colour", "red"], ["train"], ["eval"], ["eval", "stream"]]
)
def test_wrong_arguments_are_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: hope" in capsys.readouterr().err


def test_a_bad_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "none"]) == 2
    assert "--port (HOPE_PORT): expected" in capsys.readouterr().err


def test_a_model_error_of_another_command_is_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing, out = str(tmp_path / "nothing"), str(tmp_path / "out")
    text = tmp_path / "text.txt"
    text.write_text("words " * 99)
    assert main(["train", "--data", missing, "--run", out]) == 2
    assert capsys.readouterr().err.startswith("hope train: ")
    assert main(["eval", "stream", str(text), "--out", out, "--model", missing]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hope eval: expected a checkpoint folder or one of smollm2-135m, hope-tiny")
    assert main(["convert", missing, "--out", out]) == 2
    assert capsys.readouterr().err.startswith(f"hope convert: {missing}: ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("hope-serve ")
