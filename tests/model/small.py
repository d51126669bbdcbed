"""A small fp64 model of every kind, and how its tests compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from hope_model.aggregations import AGGREGATIONS
from hope_model.config import HopeConfig, LevelConfig
from hope_model.hope import Hope
from hope_model.rules import RULES
from hope_model.state import State
from hope_model.write_rules import WRITE_RULES

TOLERANCE = 1e-9
"""Relative error that the numeric contract allows in fp64."""


@dataclass(frozen=True)
class Parts:
    """One entry of each registry."""

    rule: str = "delta"
    write_rule: str = "sgd"
    aggregation: str = "chain"

    def __str__(self) -> str:
        return f"{self.rule}-{self.write_rule}-{self.aggregation}"


def _combinations() -> list[Parts]:
    """Each write rule with each aggregation, and every rule at least once: the rules take turns.

    A rule meets levels only through the residual stream, so that all triples would say nothing more.
    """
    pairs = list(product(sorted(WRITE_RULES), sorted(AGGREGATIONS)))
    rules = sorted(RULES)
    return [Parts(rules[i % len(rules)], *pairs[i % len(pairs)]) for i in range(max(len(pairs), len(rules)))]


COMBINATIONS = _combinations()
EACH_RULE = [Parts(rule=rule, write_rule="adam", aggregation="attention") for rule in sorted(RULES)]


def small_config(parts: Parts = Parts(), **changes: Any) -> HopeConfig:
    """Chunk 8, periods 8 and 16, block 16; no two widths are equal."""
    fields: dict[str, Any] = {
        "vocab_size": 31,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "mlp_width": 20,
        "chunk": 8,
        "cms_width": 12,
        "levels": (LevelConfig("fast", 8, parts.write_rule), LevelConfig("slower", 16, parts.write_rule)),
        "block": 16,
        "rule": parts.rule,
        "aggregation": parts.aggregation,
    }
    return HopeConfig("small", **{**fields, **changes})


def build(config: HopeConfig, dtype: torch.dtype = torch.float64) -> Hope:
    """A frozen model without a weight at zero: each one matters to the result."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Hope(config).to(dtype).requires_grad_(False)
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


@cache
def small_model(parts: Parts = Parts(), dtype: torch.dtype = torch.float64) -> Hope:
    """One model of each kind for all tests, which must not change it."""
    return build(small_config(parts), dtype)


def random_tokens(rows: int, tokens: int, seed: int = 0) -> Tensor:
    """``[B, T]`` of the small vocabulary."""
    return torch.randint(31, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def state_at(model: Hope, rows: int, position: int) -> State:
    """Rows that have read ``position`` tokens, each its own."""
    state = model.initial_state(rows)
    return model(random_tokens(rows, position, seed=99), state)[1] if position else state


def by_steps(model: Hope, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """``forward``, one token at a time."""
    logits = []
    for token in tokens.unbind(1):
        one, state = model.step(token, state)
        logits.append(one)
    return torch.stack(logits, dim=1), state


def in_one_call(model: Hope, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    logits, state = model(tokens, state)
    return logits, state


def by_rows(model: Hope, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """``forward``, one token at a time on rows of a slab, in place; its other rows stay as they are."""
    rows = len(tokens)
    slots = torch.arange(rows, 0, -1)
    slab = {
        name: torch.cat((tensor[:1], tensor.flip(0), tensor[:1]), dim=0).clone()
        for name, tensor in state.items()
    }
    others = [0, rows + 1]
    logits = []
    with torch.no_grad():
        for token in tokens.unbind(1):
            logits.append(model.step_rows(token, slab, slots))
    for name, tensor in slab.items():
        assert torch.equal(tensor[others].nan_to_num(7.0), state[name][[0, 0]].nan_to_num(7.0))
    return torch.stack(logits, dim=1), {name: tensor[slots] for name, tensor in slab.items()}


Reader = Callable[[Hope, Tensor, State], tuple[Tensor, State]]
"""``(model, tokens [B, T], state)`` -> logits ``[B, T, vocab]`` and the state after them."""
READERS: list[Reader] = [by_steps, in_one_call]


def join(states: list[State]) -> State:
    """One batch of all rows."""
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def row_of(state: State, row: int) -> State:
    return {name: tensor[row : row + 1] for name, tensor in state.items()}


def clone(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def with_nan(state: State, row: int, *names: str) -> State:
    """A copy of which one row is NaN in the tensors of these names, or in all that can be."""
    chosen = names or [name for name, tensor in state.items() if tensor.is_floating_point()]
    planted = clone(state)
    for name in chosen:
        planted[name][row] = float("nan")
    return planted


def due_writes(model: Hope, tokens: int) -> list[int]:
    """Writes of each learning level within the first ``tokens``."""
    return [tokens // level.period for level in model.state_spec.learning_levels if level.period]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """``||found - expected|| / ||expected||``; 0 where both are zero."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    size = float(expected.detach().norm())
    return float((found - expected).detach().norm()) / (size or 1.0)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    error = relative_error(found, expected)
    assert error <= tolerance, f"relative error {error:.2e}"


def assert_same_state(found: State, expected: State, tolerance: float = TOLERANCE) -> None:
    """Every tensor, by name; counters exactly."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            error = relative_error(found[name], tensor)
            assert error <= tolerance, f"{name}: relative error {error:.2e}"
        else:
            assert torch.equal(found[name], tensor), f"{name}: {found[name]} for {tensor}"


def assert_identical(found: State, expected: State) -> None:
    """Every tensor, bit for bit."""
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different
