"""Configurations: whatever JSON holds is accepted or a ConfigError; accepted ones survive a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.model.attention.tiny import BLOCK, backbone_config, config, level, memory_config

from hope_model.attention.config import (
    GRID,
    BackboneConfig,
    HopeAttentionConfig,
    MemoryConfig,
    MemoryLevel,
    RopeScaling,
)
from hope_model.errors import ConfigError

SCALING = RopeScaling(8.0, 1.0, 4.0, 64)
RICH = HopeAttentionConfig(
    "rich",
    backbone_config(
        rope_scaling=SCALING, qkv_bias=True, qk_norm=True, tied_head=False, no_rope_layers=(0, 2)
    ),
    memory_config(
        level(projections=("up_proj", "down_proj"), rounds=7, first_layer=2),
        level(name="slower", period=128, first_layer=0, last_layer=1),
        window=192,
        teaches=("user",),
    ),
)
SIZES = ("vocab_size", "width", "layers", "heads", "kv_heads", "head_width", "mlp_width")
NO_SIZE = [0, -1, True, 1.5, "8", None, [8], (1 << 24) + 1, float("nan")]
NOT_POSITIVE = [0, -1.0, True, "1", None, float("nan"), float("inf"), 10**400]


def stored(config: HopeAttentionConfig) -> dict[str, Any]:
    """What a file holds: JSON values alone."""
    data: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    return data


@pytest.mark.parametrize("original", [config(), RICH], ids=["plain", "rich"])
def test_a_configuration_survives_a_file(original: HopeAttentionConfig) -> None:
    assert HopeAttentionConfig.from_dict(stored(original)) == original
    hash(HopeAttentionConfig.from_dict(stored(original)))


def test_absent_fields_have_their_defaults() -> None:
    data = stored(config())
    sizes = {name: data["backbone"][name] for name in SIZES}
    backbone = BackboneConfig.from_dict(sizes)
    assert (backbone.rope_scaling, backbone.no_rope_layers, backbone.tied_head) == (None, (), True)
    few = {"name": "fast", "period": 64, "first_layer": 0, "last_layer": 1}
    assert MemoryConfig.from_dict({"levels": [few], "delay": 64}).levels[0].projections == ("down_proj",)


@pytest.mark.parametrize("value", NO_SIZE)
@pytest.mark.parametrize("field", SIZES)
def test_a_size_of_the_backbone_is_a_positive_integer(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: expected a positive integer"):
        backbone_config(**{field: value})


@pytest.mark.parametrize("value", NO_SIZE)
@pytest.mark.parametrize("field", ["window", "block", "delay", "rows", "shortlist"])
def test_a_size_of_the_memory_is_a_positive_integer(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: expected a positive integer"):
        memory_config(**{field: value})


@pytest.mark.parametrize("value", NO_SIZE)
@pytest.mark.parametrize("field", ["period", "rank", "rounds"])
def test_a_size_of_a_level_is_a_positive_integer(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^fast\.{field}: expected a positive integer"):
        level(**{field: value})


@pytest.mark.parametrize("value", NOT_POSITIVE, ids=lambda value: str(value)[:8])
def test_a_measure_is_a_positive_number(value: object) -> None:
    for field in ("norm_epsilon", "rope_theta"):
        with pytest.raises(ConfigError, match=f"^{field}: expected a positive number"):
            backbone_config(**{field: value})
    for field in ("round_length", "retention", "max_norm", "text_step_length", "text_max_norm"):
        with pytest.raises(ConfigError, match=rf"^fast\.{field}: expected a positive number"):
            level(**{field: value})
    for field in ("factor", "low_freq_factor", "high_freq_factor"):
        with pytest.raises(ConfigError, match=f"^{field}: expected a positive number"):
            RopeScaling(**{**asdict(SCALING), field: value})


@pytest.mark.parametrize("value", [0, 1, None, "true"])
@pytest.mark.parametrize("field", ["qkv_bias", "output_bias", "mlp_bias", "qk_norm", "tied_head"])
def test_a_flag_is_true_or_false(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: expected true or false"):
        backbone_config(**{field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 3}, "kv_heads: 3 does not divide heads 4"),
        ({"head_width": 9}, "head_width: expected an even number, found 9"),
        ({"no_rope_layers": (3,)}, "no_rope_layers: expected layer indices"),
        ({"no_rope_layers": (-1,)}, "no_rope_layers: expected layer indices"),
        ({"no_rope_layers": (True,)}, "no_rope_layers: expected layer indices"),
        ({"no_rope_layers": 1}, "no_rope_layers: expected a list, found 1"),
        ({"rope_scaling": 2.0}, "RopeScaling: expected fields by name, found 2.0"),
        ({"rope_scaling": {"factor": 2.0}}, "RopeScaling: .*missing"),
        ({"rope_scaling": {**asdict(SCALING), "kind": "yarn"}}, r"RopeScaling: unknown fields \['kind'\]"),
        ({"rope_scaling": {**asdict(SCALING), "low_freq_factor": 4}}, "expected high_freq_factor above"),
        ({"rope_scaling": {**asdict(SCALING), "original_context": 0}}, "original_context: expected a posit"),
        ({"width": None}, "width: expected a positive integer"),
        ({"more": 1}, r"BackboneConfig: unknown fields \['more'\]; known: \['head_width', "),
    ],
    ids=str,
)
def test_a_backbone_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BackboneConfig.from_dict({**stored(config())["backbone"], **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "levels: expected a name of letters"),
        ({"name": "a.b"}, "levels: expected a name of letters"),
        ({"name": "slow"}, "levels: expected a name of letters"),
        ({"name": 7}, "levels: expected a name of letters"),
        ({"projections": []}, r"fast\.projections: expected one at least, each once"),
        ({"projections": ["up_proj", "up_proj"]}, r"fast\.projections: expected one at least, each once"),
        ({"projections": ["q_proj"]}, r"fast\.projections: expected .* found \['q_proj'\]"),
        ({"projections": "up_proj"}, "projections: expected a list"),
        ({"projections": [["up_proj"]]}, "MemoryLevel: unhashable"),
        ({"period": 96}, "fast: period 96 is not a multiple of 64"),
        ({"more": 1}, r"MemoryLevel: unknown fields \['more'\]"),
        ({"period": 192}, f"fast: .*neither divides block {BLOCK}"),
    ],
    ids=str,
)
def test_a_level_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    data = stored(config())["memory"]
    with pytest.raises(ConfigError, match=message):
        MemoryConfig.from_dict({**data, "levels": [{**data["levels"][0], **changes}]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 100}, "window: expected a multiple of 64, found 100"),
        ({"block": 100}, "block: expected a multiple of 64"),
        ({"delay": 32}, "delay: expected a multiple of 64"),
        ({"prefix": -1}, "prefix: expected a number of tokens, found -1"),
        ({"prefix": True}, "prefix: expected a number of tokens"),
        ({"prefix": 1.0}, "prefix: expected a number of tokens"),
        ({"teaches": ["user", "all"]}, r"teaches: expected origins among .*found \['all'\]"),
        ({"teaches": "user"}, "teaches: expected a list"),
        ({"teaches": [["user"]]}, "MemoryConfig: unhashable"),
        ({"levels": []}, "levels: expected one at least"),
        ({"levels": None}, "levels: expected a list, found None"),
        ({"levels": [3]}, "MemoryLevel: expected fields by name, found 3"),
        ({"levels": [{}]}, "MemoryLevel: .*missing"),
        ({"delay": 128, "window": 256, "block": 320}, "delay: expected at most 64"),
        ({"window": 64}, "window: 64 tokens leave it before the write that learns them is active"),
        ({"prefix": 129}, "block: expected at least window and prefix, found 256"),
        ({"canary": 0}, "canary: expected a positive number"),
        ({"max_divergence": 0}, "max_divergence: expected a positive number"),
        ({"more": 1}, r"MemoryConfig: unknown fields \['more'\]"),
    ],
    ids=str,
)
def test_a_memory_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MemoryConfig.from_dict({**stored(config())["memory"], **changes})


def test_two_levels_have_two_names() -> None:
    with pytest.raises(ConfigError, match="distinct names, found \\['fast', 'fast'\\]"):
        memory_config(level(), level())


def test_a_write_is_active_before_the_next_begins() -> None:
    """Levels whose periods do not divide each other begin their writes closer than any period."""
    levels = (level(period=128), level(name="odd", period=192, first_layer=0, last_layer=0))
    assert memory_config(*levels, window=256, block=384, delay=64)
    with pytest.raises(ConfigError, match="delay: expected at most 64"):
        memory_config(*levels, window=320, block=384, delay=128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name: expected a text"),
        ({"name": 5}, "name: expected a text"),
        ({"memory": None}, "MemoryConfig: expected fields by name, found None"),
        ({"backbone": []}, r"BackboneConfig: expected fields by name, found \[\]"),
        ({"more": 1}, r"HopeAttentionConfig: unknown fields \['more'\]"),
    ],
    ids=str,
)
def test_a_model_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HopeAttentionConfig.from_dict({**stored(config()), **changes})


@pytest.mark.parametrize("missing", ["name", "backbone", "memory"])
def test_every_part_must_be_there(missing: str) -> None:
    data = stored(config())
    del data[missing]
    with pytest.raises(ConfigError, match=f"HopeAttentionConfig: .*missing.*{missing}"):
        HopeAttentionConfig.from_dict(data)


@pytest.mark.parametrize(("first", "last"), [(2, 1), (-1, 1), (1, 3), ("1", 2), (None, 2), (0.5, 2)], ids=str)
def test_levels_are_among_the_layers(first: Any, last: Any) -> None:
    data = stored(config())
    data["memory"]["levels"][0] |= {"first_layer": first, "last_layer": last}
    with pytest.raises(ConfigError, match=r"are not among|HopeAttentionConfig"):
        HopeAttentionConfig.from_dict(data)


def test_a_projection_belongs_to_one_level() -> None:
    other = level(name="other", first_layer=2, projections=("up_proj", "down_proj"))
    with pytest.raises(ConfigError, match="other: down_proj of layer 2 belongs to fast"):
        config(level(), other)
    assert config(level(), level(name="other", first_layer=2, projections=("up_proj",)))


def test_what_follows_from_a_configuration() -> None:
    assert (RICH.first_adapted, RICH.memory.reach, RICH.block, RICH.vocab_size) == (0, 128, 256, 61)
    assert config().first_adapted == 1
    assert all(size % GRID == 0 for size in (RICH.memory.window, RICH.memory.block, RICH.memory.delay))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path to everything inside of a JSON value."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [(), *((key, *rest) for key, value in items for rest in places(value))]


@given(place=st.sampled_from(places(stored(RICH))), junk=JUNK)
def test_junk_is_a_configuration_error(place: tuple[str | int, ...], junk: Any) -> None:
    data: Any = stored(RICH)
    if place:
        *path, last = place
        inner = data
        for key in path:
            inner = inner[key]
        inner[last] = junk
    else:
        data = junk
    try:
        found = HopeAttentionConfig.from_dict(data)
    except ConfigError:
        return
    assert isinstance(found, HopeAttentionConfig)
    assert HopeAttentionConfig.from_dict(stored(found)) == found


@given(JUNK)
def test_junk_as_a_level_is_a_configuration_error(junk: Any) -> None:
    fields = {"name": "fast", "period": 64, "first_layer": 0, "last_layer": 1}
    for name in fields:
        try:
            found = MemoryConfig.from_dict({"levels": [{**fields, name: junk}], "delay": 64})
        except ConfigError:
            continue
        assert isinstance(found.levels[0], MemoryLevel)
