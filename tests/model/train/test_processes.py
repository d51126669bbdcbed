"""Two processes on this machine, started by torchrun, with the weights sharded over them (FSDP2)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from math import isfinite
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hope_model.checkpoint import load_checkpoint
from hope_model.train.log import read_log

FOLDER = Path(__file__).parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--")
HANGS_AFTER_S = 300


def _start(scratch: Path, *command: str | Path) -> None:
    """Run a command to its end; one that hangs fails with what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},  # torchrun leaves a folder there
        timeout=HANGS_AFTER_S,
    )
    assert done.returncode == 0, done.stdout


def _train(config_file: Path, corpus: Path, run: Path, *more: str) -> None:
    given = "--model test --rows 2 --window 64 --warmup 1 --precision float32 --tokens 1024 --save-every 2"
    given += f" --data {corpus} --mixture {corpus / 'mixture.json'} --run {run}"
    _start(corpus, *TORCHRUN, FOLDER / "train_with_config.py", config_file, *given.split(), *more)


def test_two_processes_train_save_and_resume(config_file: Path, corpus: Path, tmp_path: Path) -> None:
    run, last = tmp_path / "run", tmp_path / "run" / "step-4"
    _train(config_file, corpus, run)
    log = read_log(run / "log.jsonl")
    assert [record["tokens"] for record in log] == [256, 512, 768, 1024]
    assert all(isfinite(record["loss"]) and isfinite(record["gradient_norm"]) for record in log)
    weights = last.joinpath("model.safetensors").read_bytes()

    latest = run / "latest.json"  # back to the checkpoint before the last
    latest.write_text(json.dumps({**json.loads(latest.read_text()), "step": 2}))
    last.rename(tmp_path / "gone")
    _train(config_file, corpus, run, "--export", str(tmp_path / "out"))
    assert last.joinpath("model.safetensors").read_bytes() == weights
    assert [record["loss"] for record in read_log(run / "log.jsonl")] == [record["loss"] for record in log]
    load_checkpoint(tmp_path / "out")


@pytest.mark.slow
def test_two_processes_step_as_one_with_all_their_rows(config_file: Path, tmp_path: Path) -> None:
    tokens = torch.randint(300, (2, 4, 65), generator=torch.Generator().manual_seed(1))
    save_file({"tokens": tokens}, tmp_path / "batches")
    arguments = [FOLDER / "sharded_steps.py", config_file, tmp_path / "batches"]
    _start(tmp_path, *TORCHRUN, *arguments, tmp_path / "two")
    _start(tmp_path, sys.executable, *arguments, tmp_path / "one")
    two, one = load_file(tmp_path / "two"), load_file(tmp_path / "one")
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
