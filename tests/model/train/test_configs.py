"""The named configurations up to hope-1.3b: shapes alone, on the meta device."""

from __future__ import annotations

from math import prod

import pytest
import torch

from hope_model.config import CONFIGS
from hope_model.hope import Hope

UNITS = {"m": 1e6, "b": 1e9}
NAMED = [name for name in CONFIGS if name.removeprefix("hope-")[0].isdigit()]


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Hope:
    with torch.device("meta"):
        return Hope(CONFIGS[request.param])


@pytest.mark.parametrize("name", NAMED)
def test_a_name_says_the_size(name: str) -> None:
    with torch.device("meta"):
        found = sum(parameter.numel() for parameter in Hope(CONFIGS[name]).parameters())
    size = name.removeprefix("hope-")
    assert found == pytest.approx(float(size[:-1]) * UNITS[size[-1]], rel=0.2)


def test_the_tiny_one_has_about_five_million_parameters() -> None:
    with torch.device("meta"):
        found = sum(parameter.numel() for parameter in Hope(CONFIGS["hope-tiny"]).parameters())
    assert found == pytest.approx(5e6, rel=0.15)


def test_heads_fill_the_width(model: Hope) -> None:
    assert model.config.heads * model.config.head_width == model.config.width
    assert model.config.head_width == 64


def test_the_state_declares_every_byte_of_a_session(model: Hope) -> None:
    state = model.initial_state(3)
    assert {name: tuple(t.shape[1:]) for name, t in state.items()} == {
        t.name: t.shape for t in model.state_spec.tensors
    }
    held = sum(prod(tensor.shape) * tensor.dtype.itemsize for tensor in state.values())
    assert held == 3 * model.state_spec.row_bytes


def test_bytes_grow_with_layers_and_memories(model: Hope) -> None:
    config, head = model.config, model.config.head_width
    memory, projections = head * head, 2 * (2 * head + 2) * head
    window, cms = (config.conv_width - 1) * config.width, 2 * config.cms_width**2 + config.cms_width
    numbers = config.heads * (memory + projections) + window + len(config.levels) * cms
    counters = 8 * (1 + 3 * (2 + len(config.levels)) + 2)
    assert model.state_spec.row_bytes == 4 * config.layers * numbers + counters
