"""The table of predictions is what the kernels say, and measuring without a GPU says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "kernels" / "bench"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(BENCH / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_roofline_is_current() -> None:
    done = run("roofline.py", "--check")
    assert done.returncode == 0, done.stderr


def test_without_a_gpu_one_line_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("here is a GPU: test_the_kernels_hold_on_this_gpu runs instead")
    done = run("run.py")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "no GPU" in done.stderr


@pytest.mark.gpu
def test_the_kernels_hold_on_this_gpu() -> None:
    done = run("run.py")
    assert done.returncode == 0, done.stdout + done.stderr
