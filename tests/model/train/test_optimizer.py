"""AdamW's groups and the schedule of its rate."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hope_model.train import trainer
from hope_model.train.objective import objective_of
from hope_model.train.optimizer import MEMORY_RATE_SCALE, MEMORY_SCALARS, learning_rate, make_optimizer
from hope_model.train.settings import TrainSettings

MODELS = ("test", "transformer-test")


def _groups(name: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """The group of every parameter, by name."""
    model = objective_of(TrainSettings(model=name)).model
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, TrainSettings(**settings)).param_groups
    return {names[parameter]: group for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_one_group(name: str) -> None:
    model = objective_of(TrainSettings(model=name)).model
    groups = make_optimizer(model, TrainSettings()).param_groups
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_matrices_decay_and_nothing_else_does(name: str) -> None:
    groups, model = _groups(name, weight_decay=0.25), objective_of(TrainSettings(model=name)).model
    expected = {key: 0.25 if weight.dim() >= 2 else 0.0 for key, weight in model.named_parameters()}
    assert {key: group["weight_decay"] for key, group in groups.items()} == expected


def test_scalars_of_the_update_rules_move_five_times_as_fast() -> None:
    scales = {name: group["rate_scale"] for name, group in _groups("test").items()}
    expected = {name: 5.0 if name.rpartition(".")[2] in MEMORY_SCALARS else 1.0 for name in scales}
    assert scales == expected
    assert MEMORY_RATE_SCALE == 5.0


@pytest.mark.parametrize("scalar", MEMORY_SCALARS)
def test_each_scalar_of_the_update_rules_is_one_of_the_model(scalar: str) -> None:
    assert any(name.endswith(f".{scalar}") for name in _groups("test"))


def test_the_yardstick_has_no_scalars() -> None:
    assert {group["rate_scale"] for group in _groups("transformer-test").values()} == {1.0}


def test_the_trainer_scales_the_scheduled_rate(
    train_in: Callable[..., None],
    settings: TrainSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates: list[list[float]] = []
    step = trainer.optimizer_step

    def recorded(objective: Any, optimizer: torch.optim.Optimizer, *args: Any, **options: Any) -> Any:
        rates.append([group["lr"] / group["rate_scale"] for group in optimizer.param_groups])
        return step(objective, optimizer, *args, **options)

    monkeypatch.setattr(trainer, "optimizer_step", recorded)
    train_in(tmp_path)
    assert rates == [[pytest.approx(learning_rate(settings, step, 6))] * 3 for step in range(6)]


def test_the_rate_rises_in_equal_steps_to_its_peak() -> None:
    settings = TrainSettings(learning_rate=0.8, warmup=4)
    assert [learning_rate(settings, step, 20) for step in range(5)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8]
    )


def test_the_rate_falls_along_a_cosine_to_its_final_share() -> None:
    settings = TrainSettings(learning_rate=0.8, warmup=4, final_rate=0.1)
    rates = [learning_rate(settings, step, 24) for step in range(4, 25)]
    assert all(before > after for before, after in pairwise(rates))
    assert rates[10] == pytest.approx((0.8 + 0.08) / 2)
    assert rates[-1] == pytest.approx(0.08)


def test_without_warm_up_the_rate_starts_at_its_peak() -> None:
    assert learning_rate(TrainSettings(learning_rate=0.8, warmup=0), 0, 10) == 0.8


def test_a_run_shorter_than_its_warm_up_stays_below_the_peak() -> None:
    settings = TrainSettings(learning_rate=0.8, warmup=100)
    assert max(learning_rate(settings, step, 10) for step in range(10)) == pytest.approx(0.08)


def test_gradients_are_clipped_to_their_joint_norm() -> None:
    from hope_model.train.processes import clip_gradients

    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    given: list[Tensor | None] = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]), None]
    for parameter, gradient in zip(parameters, given, strict=True):
        parameter.grad = gradient
    norm = clip_gradients(parameters, 0.5)
    assert norm == pytest.approx(5.0)
    assert torch.cat([p.grad for p in parameters if p.grad is not None]).tolist() == pytest.approx(
        [0.3, 0, 0, 0.4]
    )
