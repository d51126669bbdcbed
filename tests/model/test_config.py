"""Configurations: every bad value is a ConfigError that names its field; good ones survive a file."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.model.small import COMBINATIONS, small_config

from hope_model.config import CONFIGS, HopeConfig, LevelConfig, get_config
from hope_model.errors import ConfigError, HopeModelError

SIZES = ["vocab_size", "width", "layers", "heads", "mlp_width", "chunk", "conv_width", "cms_width", "block"]


def _stored(**changes: Any) -> dict[str, Any]:
    """What a file holds: JSON values alone."""
    data: dict[str, Any] = json.loads(json.dumps(small_config().to_dict()))
    return {**data, **changes}


def _level(**changes: Any) -> dict[str, Any]:
    return {"levels": [{"name": "fast", "period": 8, **changes}]}


@pytest.mark.parametrize("parts", COMBINATIONS, ids=str)
def test_a_configuration_survives_a_file(parts: Any) -> None:
    config = small_config(parts)
    assert HopeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "8", None, [8], (1 << 24) + 1, float("nan")])
@pytest.mark.parametrize("field", SIZES)
def test_a_size_is_a_positive_integer(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: expected a positive integer"):
        HopeConfig.from_dict(_stored(**{field: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name: expected a text"),
        ({"name": 5}, "name: expected a text"),
        ({"heads": 3}, "heads: 3 does not divide width 16"),
        ({"chunk": 7}, "chunk: period 7 neither divides block 16"),
        ({"chunk": 24}, "chunk: period 24 neither"),
        ({"rule": "nope"}, "unknown rule 'nope'; known: comba, delta"),
        ({"rule": ["delta"]}, "unknown rule"),
        ({"aggregation": None}, "unknown aggregation None; known: attention, chain"),
        (_level(write_rule="nope"), "unknown write rule 'nope'; known: adam, momentum, sgd"),
        (_level(period=12), "fast: period 12 neither divides block 16 nor is a multiple of it"),
        (_level(period=40), "fast: period 40 neither"),
        (_level(period=0), "fast: expected a positive integer as period, found 0"),
        (_level(period=-8), "fast: expected a positive integer"),
        (_level(period=8.0), "fast: expected a positive integer"),
        (_level(period=True), "fast: expected a positive integer"),
        (_level(period="8"), "fast: expected a positive integer"),
        (_level(period=16 * 10**30), "fast: expected a positive integer"),
        (_level(name=""), "levels: expected names of letters"),
        (_level(name="a.delta"), "levels: expected names of letters"),
        (_level(name=5), "levels: expected names of letters"),
        (_level(name=["fast"]), "levels: expected names of letters"),
        (_level(name="phi"), "levels: names must be distinct and not reserved"),
        (_level(name="projections"), "levels: names must be distinct and not reserved"),
        (_level(name="slow"), "levels: names must be distinct and not reserved"),
        (_level(name="counters"), "levels: names must be distinct and not reserved"),
        ({"levels": 2 * _level()["levels"]}, "levels: names must be distinct and not reserved"),
        ({"rule_options": 5}, "rule_options: expected values by name, found 5"),
        ({"levels": 5}, "levels: expected a list, found 5"),
        ({"levels": "fast"}, "levels: expected a list"),
        ({"levels": None}, "levels: expected a list"),
        ({"levels": [5]}, "LevelConfig: expected fields by name, found 5"),
        ({"levels": [{"name": "fast"}]}, "missing 1 required positional argument: 'period'"),
        (_level(rate=1), r"LevelConfig: unknown fields \['rate'\]; known: \['name', 'period'"),
        ({"depth": 4}, r"HopeConfig: unknown fields \['depth'\]; known: \['aggregation', 'block'"),
    ],
)
def test_a_bad_value_names_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HopeConfig.from_dict(_stored(**changes))


@pytest.mark.parametrize("field", ["name", "levels"])
def test_a_missing_field_is_named(field: str) -> None:
    data = _stored()
    del data[field]
    with pytest.raises(ConfigError, match=f"'{field}'"):
        HopeConfig.from_dict(data)


@pytest.mark.parametrize("data", [None, [], "hope", 5, {}])
def test_something_else_than_fields_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError):
        HopeConfig.from_dict(data)


def test_a_configuration_that_was_built_in_code_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="unknown rule"):
        HopeConfig("mine", rule="nope")
    with pytest.raises(ConfigError, match="levels"):
        HopeConfig("mine", levels=(LevelConfig("a.b", 64),))


def test_its_error_has_a_stable_code() -> None:
    with pytest.raises(HopeModelError) as caught:
        HopeConfig("mine", heads=3)
    assert caught.value.code == "config_invalid"


def test_a_named_configuration_is_found_by_its_name() -> None:
    assert all(get_config(name).name == name for name in CONFIGS)
    assert {"hope-tiny", "hope-1.3b"} <= CONFIGS.keys()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown configuration 'huge'; known: hope-tiny, .*hope-1\.3b"):
        get_config("huge")
