"""`hope completion`: every command and flag is there, and a real bash completes with it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import get_args

import pytest

from hope_server.cli import COMMANDS, Shell, main
from hope_server.completion import script

SHELLS: tuple[Shell, ...] = get_args(Shell)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_knows_every_command_and_flags_of_each(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    found = capsys.readouterr().out
    flags = ("max-tokens", "redis-url", "from", "verify", "tenant", "mixture")
    assert [name for name in (*COMMANDS, "export", "rollback", *flags) if name not in found] == []


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["completion", "cmd"])
    assert caught.value.code == 2
    assert "invalid choice: 'cmd'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["hope", "se"], {"serve", "session"}),
        (["hope", "session", "ro"], {"rollback"}),
        (["hope", "chat", "--le"], {"--learn"}),
        (["hope", "chat", "--learn", "o"], {"on", "off"}),
        (["hope", "completion", "f"], {"fish"}),
        (["hope", "session", "import", "a-fi"], {"a-file"}),
    ],
)
def test_bash_completes(tmp_path: Path, typed: list[str], expected: set[str]) -> None:
    (tmp_path / "script").write_text(script("bash"))
    (tmp_path / "a-file").touch()
    words = " ".join(f"'{word}'" for word in typed)
    commands = f"""
        source ./script
        COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}
        function_of_hope=$(complete -p hope | sed -E 's/.*-F ([^ ]+) .*/\\1/')
        $function_of_hope hope '{typed[-1]}' '{typed[-2]}'
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", commands], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == expected, done.stderr
