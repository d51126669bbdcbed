"""Runs of the trainer: they learn, repeat themselves, and go on where they stood."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hope_model.errors import ConfigError, DataError, TrainError
from hope_model.tokenizer import Tokenizer
from hope_model.train import trainer
from hope_model.train.lanes import Batch
from hope_model.train.log import TrainLog, read_log
from hope_model.train.mixture import Source
from hope_model.train.processes import Processes
from hope_model.train.resume import load_weights
from hope_model.train.settings import TrainSettings
from hope_model.train.stop import StopSignal
from hope_model.train.trainer import train

Run = Callable[..., None]


def _same_weights(one: Path, other: Path) -> bool:
    first, second = load_weights(one), load_weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _figures(directory: Path) -> list[dict[str, Any]]:
    """The log without what a clock measured."""
    timed = dict.fromkeys(("tokens_per_s", "seconds", "cpu_seconds"))
    return [{**record, **timed} for record in read_log(directory / "log.jsonl")]


def _losses(directory: Path) -> list[float]:
    return [record["loss"] for record in read_log(directory / "log.jsonl")]


@pytest.mark.parametrize("name", ["test", "transformer-test"])
def test_the_loss_falls(train_in: Run, tmp_path: Path, name: str) -> None:
    train_in(tmp_path, model=name, tokens=40 * 120, learning_rate=1e-2)
    losses = _losses(tmp_path)
    assert losses[0] == pytest.approx(torch.tensor(300.0).log().item(), abs=0.1)
    assert mean(losses[-5:]) < losses[0] - 0.8


def test_a_seed_fixes_the_weights(train_in: Run, tmp_path: Path) -> None:
    for name in ("one", "again"):
        train_in(tmp_path / name, seed=5)
    assert _same_weights(tmp_path / "one", tmp_path / "again")
    assert _figures(tmp_path / "one") == _figures(tmp_path / "again")


def test_another_seed_gives_other_weights(train_in: Run, tmp_path: Path) -> None:
    for seed in (5, 6):
        train_in(tmp_path / str(seed), seed=seed)
    assert not _same_weights(tmp_path / "5", tmp_path / "6")


def test_each_seed_and_each_process_reads_text_of_its_own(
    train_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Batch] = []

    def first_batch(objective: Any, optimizer: Any, processes: Any, batch: Batch, *_: Any, **__: Any) -> None:
        read.append(batch)
        raise InterruptedError

    monkeypatch.setattr(trainer, "optimizer_step", first_batch)
    for seed, rank in ((5, 0), (5, 0), (6, 0), (5, 1)):
        process = Processes(rank, 1, torch.device("cpu"))
        monkeypatch.setattr(Processes, "join", lambda process=process: process)
        with pytest.raises(InterruptedError):
            train_in(tmp_path, seed=seed)
    one, again, other_seed, other_process = (batch.tokens for batch in read)
    assert torch.equal(one, again)
    assert not torch.equal(one, other_seed)
    assert not torch.equal(one, other_process)


@pytest.mark.parametrize("name", ["test", "transformer-test"])
@pytest.mark.parametrize("step", [1, 4])
def test_a_stopped_run_ends_as_one_that_was_not_stopped(
    train_in: Run, stop_after: Run, tmp_path: Path, name: str, step: int
) -> None:
    train_in(tmp_path / "straight", model=name)
    stop_after(tmp_path / "stopped", step, model=name)
    assert len(_losses(tmp_path / "stopped")) == step
    train_in(tmp_path / "stopped", model=name)
    assert _same_weights(tmp_path / "straight", tmp_path / "stopped")
    assert _figures(tmp_path / "straight") == _figures(tmp_path / "stopped")


def test_the_moments_go_on_too(train_in: Run, stop_after: Run, tmp_path: Path) -> None:
    train_in(tmp_path / "straight")
    stop_after(tmp_path / "stopped", 3)
    train_in(tmp_path / "stopped")
    one, other = (tmp_path / name / "step-6" / "optimizer.safetensors" for name in ("straight", "stopped"))
    assert one.read_bytes() == other.read_bytes()


def test_a_stop_during_the_last_step_ends_the_run(
    train_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked_at_once(stop: StopSignal) -> StopSignal:
        stop.asked = True
        return stop

    monkeypatch.setattr(StopSignal, "__enter__", asked_at_once)
    try:
        train_in(tmp_path, tokens=120)
    except KeyboardInterrupt:
        pytest.fail("expected the end of the run, found an interrupt")
    assert (tmp_path / "loss.png").exists()


def test_a_killed_run_repeats_the_steps_after_its_checkpoint(
    train_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_in(tmp_path / "straight", save_every=2)
    with monkeypatch.context() as patch:
        record = TrainLog.step
        patch.setattr(TrainLog, "step", lambda log, step, **f: 1 / (6 - step) and record(log, step, **f))
        with pytest.raises(ZeroDivisionError):
            train_in(tmp_path / "killed", save_every=2)
    assert len(_losses(tmp_path / "killed")) == 5
    train_in(tmp_path / "killed", save_every=2)
    assert _figures(tmp_path / "straight") == _figures(tmp_path / "killed")
    assert _same_weights(tmp_path / "straight", tmp_path / "killed")


def test_a_finished_run_is_left_as_it_is(train_in: Run, tmp_path: Path) -> None:
    train_in(tmp_path)
    before = {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix != ".png" and path.is_file()
    }
    train_in(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_a_line_cut_short_by_a_kill_is_dropped(train_in: Run, stop_after: Run, tmp_path: Path) -> None:
    stop_after(tmp_path, 3)
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 4, "lo')
    train_in(tmp_path)
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_remains_of_a_killed_save_do_no_harm(train_in: Run, tmp_path: Path) -> None:
    for name in (".step-6", "step-6"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    train_in(tmp_path)
    assert load_weights(tmp_path)
    assert not (tmp_path / ".step-6").exists()


@pytest.mark.parametrize("window", [20, 32])
def test_a_window_that_trains_no_write_of_the_slowest_level_is_refused(
    train_in: Run, tmp_path: Path, window: int
) -> None:
    with pytest.raises(ConfigError, match=f"window: expected more tokens than .* 32, found {window}"):
        train_in(tmp_path, window=window)


def test_a_window_of_several_phases_is_refused_with_several_processes(
    train_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows at several phases would make processes call their blocks differently often, and wait for ever."""
    two = Processes(0, 2, torch.device("cpu"))
    monkeypatch.setattr(Processes, "join", lambda: two)
    with pytest.raises(ConfigError, match="window: expected a multiple of 32 tokens"):
        train_in(tmp_path, window=40)


def test_a_loss_that_is_not_finite_ends_the_run(train_in: Run, stop_after: Run, tmp_path: Path) -> None:
    stop_after(tmp_path, 3)
    path = tmp_path / "step-3" / "model.safetensors"
    save_file({**load_file(path), "norm.gain": torch.full((32,), float("nan"))}, path)
    with pytest.raises(TrainError, match=r"step 4: expected a finite loss and gradient, found .*nan"):
        train_in(tmp_path)
    assert json.loads((tmp_path / "latest.json").read_text())["step"] == 3
    assert len(_losses(tmp_path)) == 3


def test_a_gradient_that_is_not_finite_ends_the_run(
    train_in: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = torch.tensor(float("inf"))
    monkeypatch.setattr(trainer, "clip_gradients", lambda parameters, limit: norm)
    with pytest.raises(TrainError, match=r"step 1: expected a finite loss and gradient, found .*inf"):
        train_in(tmp_path)
    assert not (tmp_path / "latest.json").exists()


def test_text_that_is_used_up_ends_the_run(
    settings: TrainSettings, sources: tuple[Source, ...], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(TrainError, match=r"step \d+: expected text for 1000 steps, found the sets used up"):
        train(
            replace(settings, tokens=1000 * 3 * 400, window=400, model="transformer-test"),
            [replace(sources[0], max_epochs=1)],
            tokenizer,
            tmp_path,
        )


def test_a_shard_that_cannot_be_read_ends_the_run(
    settings: TrainSettings, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": 5}\n')
    source = Source("bad", "book", 1.0, (tmp_path / "bad.jsonl",))
    with pytest.raises(DataError, match=r"bad\.jsonl: row 1"):
        train(settings, [source], tokenizer, tmp_path / "run")


def test_the_log_counts_steps_and_tokens(train_in: Run, tmp_path: Path) -> None:
    train_in(tmp_path)
    records = read_log(tmp_path / "log.jsonl")
    assert [(record["step"], record["tokens"]) for record in records] == [(i, 120 * i) for i in range(1, 7)]
    timed = {"tokens_per_s", "seconds", "cpu_seconds"}
    expected = {"step", "tokens", "loss", "gradient_norm", "learning_rate"} | timed
    assert all(record.keys() == expected for record in records)
    assert all(record[name] > 0 for record in records for name in timed)
    whole = 360 / records[2]["tokens_per_s"]
    assert sum(record["seconds"] for record in records[:3]) == pytest.approx(whole, rel=1e-6)


def test_the_picture_of_the_loss_is_an_image(train_in: Run, tmp_path: Path) -> None:
    from matplotlib.image import imread

    train_in(tmp_path)
    picture = imread(tmp_path / "loss.png")
    assert picture.shape[:2] == (480, 840)
    assert picture.min() < picture.max()


def test_the_faster_precision_is_measured_once_and_kept(
    train_in: Run, stop_after: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []

    def measured(run: Callable[[], None], device: torch.device) -> str:
        run()
        asked.append(None)
        return "bfloat16"

    monkeypatch.setattr(trainer, "faster_precision", measured)
    train_in(tmp_path / "given", precision="bfloat16")
    stop_after(tmp_path / "measured", 2, precision="auto")
    train_in(tmp_path / "measured", precision="auto")
    assert len(asked) == 1
    assert _same_weights(tmp_path / "given", tmp_path / "measured")


def test_bf16_differs_from_fp32_but_little(train_in: Run, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        train_in(tmp_path / precision, precision=precision)
    exact, rounded = (_losses(tmp_path / precision) for precision in ("float32", "bfloat16"))
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.01)
