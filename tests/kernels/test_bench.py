"""The table of predictions is what the kernels say, and measuring without a GPU says so."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hope_kernels.subjects import SUBJECTS

BENCH = Path(__file__).parents[2] / "kernels" / "bench"
TABLE = BENCH / "ROOFLINE.md"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(BENCH / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_roofline_is_current_and_nothing_spills_on_an_h100() -> None:
    done = run("roofline.py", "--check")
    assert done.returncode == 0, done.stderr
    head, *rows = [line.split("|")[1:-1] for line in TABLE.read_text().splitlines() if line.startswith("|")]
    names = [name.strip() for name in head]
    table = [dict(zip(names, (cell.strip() for cell in row), strict=True)) for row in rows[1:]]
    assert {row["kernel"] for row in table} == set(SUBJECTS)
    assert {row["spilled"] for row in table} == {"0"}
    assert all(int(row["shared, B"]) <= 227 << 10 for row in table)


def test_without_a_gpu_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(BENCH / "run.py"), run_name="__main__")
    assert stopped.value.code == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert len(found.err.splitlines()) == 1
    assert "no GPU" in found.err


@pytest.mark.gpu
def test_the_kernels_hold_on_this_gpu() -> None:
    done = run("run.py")
    assert done.returncode == 0, done.stdout + done.stderr
