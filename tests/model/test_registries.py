"""Registries: names to classes, and an unknown name lists the known ones."""

from __future__ import annotations

import pytest
from torch import nn

from hope_model.aggregations import AGGREGATIONS
from hope_model.aggregations.base import Aggregation
from hope_model.errors import ConfigError
from hope_model.registry import Registry
from hope_model.rules import RULES
from hope_model.rules.base import MemoryRule
from hope_model.write_rules import WRITE_RULES
from hope_model.write_rules.base import WriteRule


@pytest.mark.parametrize(
    ("registry", "base"), [(RULES, MemoryRule), (WRITE_RULES, WriteRule), (AGGREGATIONS, Aggregation)]
)
def test_every_entry_is_a_class_of_its_kind(registry: Registry, base: type) -> None:
    assert all(issubclass(part, base) for part in registry.values())
    assert len(set(registry.values())) == len(registry) >= 2


@pytest.mark.parametrize(
    ("registry", "message"),
    [
        (RULES, f"unknown rule 'nope'; known: {', '.join(sorted(RULES))}"),
        (WRITE_RULES, "unknown write rule 'nope'; known: adam, momentum, sgd"),
        (AGGREGATIONS, "unknown aggregation 'nope'; known: attention, chain, concat, gated_sum"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(registry: Registry, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        registry["nope"]


@pytest.mark.parametrize("name", ["nope", "", 5, None, ["delta"]])
def test_membership_is_a_question_not_an_error(name: object) -> None:
    assert name not in RULES
    assert "delta" in RULES


def test_a_part_is_imported_on_first_use() -> None:
    registry = Registry("part", {"here": "torch.nn:Linear", "gone": "no_such_module:Thing"})
    assert list(registry) == ["here", "gone"]
    assert registry["here"] is nn.Linear
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        registry["gone"]
