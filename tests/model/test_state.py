"""StateSpec: the one place that knows names, shapes and bytes of a session's state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.model.small import COMBINATIONS, Parts, small_model

from hope_model.errors import StateError
from hope_model.state import COUNTERS, LevelSpec, StateSpec, TensorSpec, detach, select_rows

MEMORY = TensorSpec("memory", "phi", (2, 3))
HALF = TensorSpec("half", "fast", (5,), torch.bfloat16)
POSITION = TensorSpec("position", COUNTERS, (), torch.int64)
SPEC = StateSpec(
    (MEMORY, HALF, POSITION), (LevelSpec("phi", 1), LevelSpec("fast", 8), LevelSpec("slow", None))
)


def test_a_row_is_as_large_as_its_tensors() -> None:
    assert [tensor.row_bytes for tensor in SPEC.tensors] == [24, 10, 8]
    assert SPEC.row_bytes == 42


def test_bytes_belong_to_levels() -> None:
    levels = ("phi", "fast", "slow", COUNTERS, "nope")
    assert [SPEC.level_bytes(name) for name in levels] == [24, 10, 0, 8, 0]


def test_frozen_levels_do_not_learn() -> None:
    assert [level.name for level in SPEC.learning_levels] == ["phi", "fast"]


def test_tensors_are_found_by_name() -> None:
    assert SPEC.by_name["half"] is HALF


def test_the_initial_state_is_zero_in_the_declared_types() -> None:
    state = SPEC.zeros(4)
    assert {name: (tuple(t.shape), t.dtype) for name, t in state.items()} == {
        "memory": ((4, 2, 3), torch.float32),
        "half": ((4, 5), torch.bfloat16),
        "position": ((4,), torch.int64),
    }
    assert not any(t.any() for t in state.values())


def test_another_type_replaces_the_floating_ones_alone() -> None:
    types = {name: t.dtype for name, t in SPEC.zeros(1, dtype=torch.float64).items()}
    assert types == {"memory": torch.float64, "half": torch.float64, "position": torch.int64}


def test_equal_layouts_have_equal_hashes() -> None:
    again = StateSpec(tuple(replace(tensor) for tensor in SPEC.tensors), SPEC.levels)
    assert again.sha256() == SPEC.sha256()
    assert len(SPEC.sha256()) == 64


@pytest.mark.parametrize(
    "changed",
    [
        replace(MEMORY, name="other"),
        replace(MEMORY, level="fast"),
        replace(MEMORY, shape=(3, 2)),
        replace(MEMORY, shape=(2, 3, 1)),
        replace(MEMORY, dtype=torch.float64),
    ],
)
def test_any_change_of_a_tensor_changes_the_hash(changed: TensorSpec) -> None:
    assert StateSpec((changed, HALF, POSITION), SPEC.levels).sha256() != SPEC.sha256()


@pytest.mark.parametrize(
    "other",
    [
        StateSpec((HALF, MEMORY, POSITION), SPEC.levels),
        StateSpec((MEMORY, POSITION), SPEC.levels),
        StateSpec(SPEC.tensors, SPEC.levels[:2]),
        StateSpec(SPEC.tensors, (LevelSpec("phi", 1), LevelSpec("fast", 16), LevelSpec("slow", None))),
        StateSpec(SPEC.tensors, (LevelSpec("phi", 1), LevelSpec("faster", 8), LevelSpec("slow", None))),
    ],
)
def test_any_change_of_the_layout_changes_the_hash(other: StateSpec) -> None:
    assert other.sha256() != SPEC.sha256()


def test_selected_rows_are_copies() -> None:
    state = {"memory": torch.arange(6.0).view(3, 2)}
    chosen = select_rows(state, torch.tensor([2, 0]))
    chosen["memory"] += 10
    assert chosen["memory"].tolist() == [[14.0, 15.0], [10.0, 11.0]]
    assert state["memory"].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]


def test_a_detached_state_has_the_values_and_no_graph() -> None:
    state = {"memory": torch.ones(2, requires_grad=True) * 3}
    cut = detach(state)["memory"]
    assert cut.tolist() == [3.0, 3.0]
    assert not cut.requires_grad


@pytest.mark.parametrize("parts", COMBINATIONS, ids=str)
def test_a_models_levels_own_all_bytes(parts: Parts) -> None:
    spec = small_model(parts).state_spec
    names = {COUNTERS, *(level.name for level in spec.levels)}
    assert {tensor.level for tensor in spec.tensors} <= names
    assert sum(spec.level_bytes(name) for name in names) == spec.row_bytes
    assert spec.level_bytes("slow") == 0
    state = spec.zeros(1)
    assert spec.row_bytes == sum(tensor.numel() * tensor.element_size() for tensor in state.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_models_state_has_the_type_of_its_weights(dtype: torch.dtype) -> None:
    state = small_model(dtype=dtype).initial_state(2)
    assert {t.dtype for t in state.values()} == {dtype, torch.int64}


def test_state_errors_have_a_stable_code() -> None:
    assert StateError.code == "state_invalid"
