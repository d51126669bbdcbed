"""Settings are refused by name, and a run's length follows from them."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from hope_model.errors import ConfigError
from hope_model.train.objective import make_objective
from hope_model.train.settings import TrainSettings

BAD = {
    "tokens": (0, -1, 1.5, True, "8"),
    "rows": (0, -1, 8.0, True),
    "window": (0, -1, 8.0, None),
    "save_every": (0, -1, 8.0),
    "warmup": (-1, 1.0, False),
    "seed": (-1, 1.0, None),
    "learning_rate": (0.0, -1.0, float("inf"), float("nan"), "x"),
    "clip_norm": (0.0, -1.0, float("inf"), float("nan"), True),
    "reset_probability": (-0.1, 1.1, float("nan")),
    "final_rate": (-0.1, 1.1, float("nan"), None),
    "weight_decay": (-0.1, 1.1, float("nan")),
    "precision": ("float16", "", None),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected .*, found"):
        TrainSettings(**{name: value})


def test_every_setting_is_checked() -> None:
    assert {field.name for field in fields(TrainSettings)} == {*BAD, "model"}


@pytest.mark.parametrize("name", ["hope-huge", "transformer-hope-huge", "transformer-", ""])
def test_an_unknown_model_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown configuration .*known: hope-tiny, "):
        make_objective(name)


@pytest.mark.parametrize(("tokens", "processes", "steps"), [(1, 1, 1), (200, 1, 2), (201, 1, 3), (801, 4, 3)])
def test_the_steps_reach_the_tokens_of_all_processes(tokens: int, processes: int, steps: int) -> None:
    assert TrainSettings(tokens=tokens, rows=4, window=25).steps(processes) == steps


def test_settings_survive_json() -> None:
    settings = TrainSettings(model="hope-25m", reset_probability=1 / 3, seed=7)
    assert TrainSettings(**json.loads(json.dumps(settings.to_dict()))) == settings
