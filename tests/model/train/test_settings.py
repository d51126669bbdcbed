"""Settings are refused by name, and a run's length follows from them."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from hope_model.config import get_config
from hope_model.errors import ConfigError
from hope_model.matching import count_parameters
from hope_model.train.objective import objective_of
from hope_model.train.settings import TrainSettings

BAD: dict[str, tuple[Any, ...]] = {
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
    "levels": ("all", "", None),
    "rule": (None, 5),
    "rule_options": (None, {}),
    "parameters": (-1, 1.0, False),
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
        objective_of(TrainSettings(model=name))


@pytest.mark.parametrize(("tokens", "processes", "steps"), [(1, 1, 1), (200, 1, 2), (201, 1, 3), (801, 4, 3)])
def test_the_steps_reach_the_tokens_of_all_processes(tokens: int, processes: int, steps: int) -> None:
    assert TrainSettings(tokens=tokens, rows=4, window=25).steps(processes) == steps


def test_settings_survive_json() -> None:
    settings = TrainSettings(model="hope-25m", reset_probability=1 / 3, seed=7)
    assert TrainSettings(**json.loads(json.dumps(settings.to_dict()))) == settings


def test_a_run_trains_its_own_rule_at_the_count_it_was_given() -> None:
    settings = TrainSettings(rule="retnet", levels="none", parameters=3_500_000)
    config = settings.hope_config()
    assert (config.rule, config.levels, config.name) == ("retnet", (), "hope-tiny-retnet")
    assert count_parameters(config) == pytest.approx(3_500_000, rel=0.03)
    assert TrainSettings().hope_config() == get_config("hope-tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "nope"}, "unknown rule 'nope'; known: .*delta"),
        ({"rule_options": "window=5"}, "rule_options: rule 'delta' has no option window; known: none"),
        ({"rule": "samba", "rule_options": "window=300"}, "expected at most 256 tokens or a multiple"),
        ({"parameters": 1000}, "parameters: expected 'hope-tiny' with rule 'delta' to fit 1000, found "),
        ({"rule_options": "window"}, "rule_options: expected name=value, found 'window'"),
        ({"rule_options": "a=1,a=2"}, "rule_options: expected each name once, found 'a' twice"),
    ],
)
def test_a_variant_that_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainSettings(**changes).hope_config()


@pytest.mark.parametrize("changes", [{"rule": "retnet"}, {"levels": "none"}, {"parameters": 5_000_000}])
def test_the_yardstick_has_no_rule(changes: dict[str, Any]) -> None:
    """Nor what goes with one; the setting that is too much is named."""
    with pytest.raises(ConfigError, match=f"rule: expected none for the yardstick .*, found {min(changes)}$"):
        TrainSettings(model="transformer-hope-tiny", **changes)
