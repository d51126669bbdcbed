"""A training step on a GPU is one replay: nothing in it waits for the device, and it learns the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.model.small import EACH_RULE, Parts, small_model
from tests.pretend_gpu import GPU, pretend_gpu

from hope_model.state import State
from hope_model.train import trainer
from hope_model.train.captured_step import WARM_STEPS
from hope_model.train.log import read_log
from hope_model.train.objective import HopeObjective

ROWS = 2


def window_of(objective: HopeObjective, tokens: int) -> tuple[torch.Tensor, torch.Tensor, State]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, objective.model.config.vocab_size, (ROWS, tokens + 1), generator=generator)
    return ids, torch.tensor([False, True]), objective.initial_state(ROWS)


def objective_on(device: torch.device, parts: Parts) -> HopeObjective:
    small = small_model(parts, torch.float32)
    with torch.device("meta"):
        objective = HopeObjective(small.config)
    weights = {name: tensor.clone().to(device) for name, tensor in small.state_dict().items()}
    objective.model.load_state_dict(weights, assign=True)
    return objective


@pytest.mark.parametrize("parts", EACH_RULE, ids=str)
def test_no_rule_waits_for_the_device_in_a_window(parts: Parts) -> None:
    here = objective_on(torch.device("cpu"), parts)
    tokens = here.model.phase_period
    expected, _ = here.loss(*window_of(here, tokens))
    with pretend_gpu() as gpu:
        there = objective_on(GPU, parts)
        ids, resets, state = window_of(there, tokens)
        ids, resets = ids.to(GPU), resets.to(GPU)
        gpu.recording = []
        loss, _ = there.loss(ids, resets, state)
        gpu.recording = None
    assert loss.detach().item() == pytest.approx(expected.detach().item(), rel=1e-5)


def test_a_window_of_no_whole_periods_asks_where_its_rows_stand() -> None:
    with pretend_gpu() as gpu:
        there = objective_on(GPU, Parts())
        ids, resets, state = window_of(there, there.model.phase_period + 1)
        before = gpu.reads
        there.loss(ids.to(GPU), resets.to(GPU), state)
        assert gpu.reads > before


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["test", "transformer-test"])
def test_a_replayed_run_learns_what_a_launched_one_does(
    train_in: Callable[..., None], tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replays: list[int] = []
    replay = torch.cuda.CUDAGraph.replay

    def counted(graph: torch.cuda.CUDAGraph) -> None:
        replays.append(1)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counted)
    train_in(tmp_path / "replayed", model=model, tokens=64 * 60, window=64)
    steps = len(losses_in(tmp_path / "replayed"))
    assert len(replays) == steps - WARM_STEPS > 5
    monkeypatch.setattr(trainer, "CapturedStep", lambda step, optimizer, device: step)
    train_in(tmp_path / "launched", model=model, tokens=64 * 60, window=64)
    assert losses_in(tmp_path / "replayed") == pytest.approx(losses_in(tmp_path / "launched"), rel=1e-4)


def losses_in(directory: Path) -> list[float]:
    return [record["loss"] for record in read_log(directory / "log.jsonl")]
