"""Aggregations against their equations written out, with levels that are plain matrices."""

from __future__ import annotations

import pytest
import torch
from tests.model.small import assert_close
from torch import Tensor
from torch.nn import functional as F

from hope_model.aggregations import AGGREGATIONS
from hope_model.aggregations.attention import Attention, associative_read
from hope_model.aggregations.base import Read
from hope_model.aggregations.chain import Chain
from hope_model.aggregations.concat import Concat
from hope_model.aggregations.gated_sum import GatedSum

B, T, D, L = 2, 3, 4, 3


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, T, D, dtype=torch.float64)


@pytest.fixture
def maps() -> list[Tensor]:
    """A matrix for each level."""
    return [torch.randn(D, D, dtype=torch.float64) for _ in range(L)]


def _reads(maps: list[Tensor]) -> list[Read]:
    return [lambda h, matrix=matrix: h @ matrix.T for matrix in maps]  # type: ignore[misc]


def test_chain_reads_what_the_faster_level_wrote(x: Tensor, maps: list[Tensor]) -> None:
    expected = x
    for matrix in maps:
        expected = expected + expected @ matrix.T
    assert_close(Chain(D, L)(x, _reads(maps)), expected)


def test_gated_sum_weighs_each_level_by_its_gate(x: Tensor, maps: list[Tensor]) -> None:
    """E19: ``y = x + sum_k σ(g_k · x + b_k) M^(k)(x)``."""
    layer = GatedSum(D, L).double()
    weight, bias = layer.gates.weight, layer.gates.bias
    expected = x.clone()
    for level, matrix in enumerate(maps):
        expected = expected + torch.sigmoid(x @ weight[level] + bias[level])[..., None] * (x @ matrix.T)
    assert_close(layer(x, _reads(maps)), expected)


def test_concat_projects_all_readings_together(x: Tensor, maps: list[Tensor]) -> None:
    """E20: each level's reading meets its own slice of ``W``."""
    layer = Concat(D, L).double()
    slices = layer.projection.weight.tensor_split(L, dim=1)
    expected = x + sum(x @ matrix.T @ part.T for matrix, part in zip(maps, slices, strict=True))
    assert isinstance(expected, Tensor)
    assert_close(layer(x, _reads(maps)), expected)


def test_attention_is_sdpa_over_the_levels(x: Tensor, maps: list[Tensor]) -> None:
    """E21: a token's levels are the entries that its query attends to."""
    layer = Attention(D, L).double()
    readings = torch.stack([x @ matrix.T for matrix in maps], dim=-2)
    read = F.scaled_dot_product_attention(
        layer.query(x)[..., None, :], layer.key(readings), layer.value(readings)
    )
    assert_close(layer(x, _reads(maps)), x + read[..., 0, :])


@pytest.mark.parametrize("entries", [1, 2, 17])
def test_the_associative_read_follows_sdpa(entries: int) -> None:
    query = torch.randn(B, T, D, dtype=torch.float64)
    keys, values = 4 * torch.randn(2, B, T, entries, D, dtype=torch.float64)
    expected = F.scaled_dot_product_attention(query[..., None, :], keys, values)[..., 0, :]
    assert_close(associative_read(query, keys, values), expected)


@pytest.mark.parametrize("name", sorted(AGGREGATIONS))
def test_every_level_is_read_once_and_the_fastest_first(name: str, x: Tensor, maps: list[Tensor]) -> None:
    """A second read would learn a token twice."""
    order: list[int] = []

    def noted(level: int, read: Read) -> Read:
        return lambda h: (order.append(level), read(h))[1]  # type: ignore[func-returns-value]

    layer = AGGREGATIONS[name](D, L).double()
    layer(x, [noted(level, read) for level, read in enumerate(_reads(maps))])
    assert order == list(range(L))


@pytest.mark.parametrize("name", sorted(AGGREGATIONS))
def test_a_single_token_without_time_axis_gives_the_same(name: str, x: Tensor, maps: list[Tensor]) -> None:
    layer = AGGREGATIONS[name](D, L).double()
    assert_close(layer(x[:, 0], _reads(maps)), layer(x, _reads(maps))[:, 0])


@pytest.mark.parametrize("name", sorted(AGGREGATIONS))
def test_levels_that_are_silent_change_nothing(name: str, x: Tensor) -> None:
    layer = AGGREGATIONS[name](D, L).double()
    assert torch.equal(layer(x, [torch.zeros_like] * L), x)
