"""Guards: what is zero, huge, tiny or not a number neither spreads nor spoils a gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tests.model.small import (
    COMBINATIONS,
    Parts,
    assert_close,
    by_steps,
    due_writes,
    in_one_call,
    random_tokens,
    small_model,
    state_at,
)
from torch import Tensor
from torch.nn import functional as F

from hope_model import cms
from hope_model.cms import bound_direction
from hope_model.guards import bound_norm, finite_rows, full_precision, keep_finite, l2_normalize
from hope_model.rules import delta, gated, gradient, matrix, selective
from hope_model.state import State

EXTREMES = {"zero": 0.0, "huge": 1e30, "huger": 1e36, "denormal": 1e-42, "tiny": 1e-20}
"""In fp32: squares of the huge overflow, those of the tiny underflow."""

GUARDS: dict[str, Callable[[Tensor], Tensor]] = {
    "l2_normalize": l2_normalize,
    "bound_norm": lambda x: bound_norm(x, 8.0, axes=(-2, -1)),
    "bound_direction": bound_direction,
}


@pytest.mark.parametrize("value", EXTREMES.values(), ids=EXTREMES.keys())
@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS.keys())
def test_extreme_input_gives_finite_bounded_output_and_gradient(
    guard: Callable[[Tensor], Tensor], value: float
) -> None:
    x = torch.full((2, 3, 4), value).requires_grad_()
    y = guard(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert bool(y.isfinite().all())
    assert bool(gradient.isfinite().all())
    assert float(y.detach().norm()) <= 8.0 * 2**0.5 * 1.0001


@pytest.mark.parametrize("value", EXTREMES.values(), ids=EXTREMES.keys())
@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS.keys())
def test_the_gradient_of_an_extreme_row_is_finite_beside_a_row_above_its_bound(
    guard: Callable[[Tensor], Tensor], value: float
) -> None:
    """One row that has to be scaled down changes the path of all of them."""
    x = torch.full((2, 3, 4), 100.0)
    x[1] = value
    (gradient,) = torch.autograd.grad(guard(x.requires_grad_()).sum(), x)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS.keys())
def test_a_row_of_nan_stays_a_row_of_nan(guard: Callable[[Tensor], Tensor]) -> None:
    """A guard does not turn nonsense into a plausible value, and does not spread it."""
    x = torch.randn(3, 4, 5)
    expected = guard(x)
    y = guard(x.index_fill(0, torch.tensor([1]), float("nan")))
    assert bool(y[1].isnan().all())
    assert torch.equal(y[[0, 2]], expected[[0, 2]])


def test_normalised_vectors_are_units_and_zero_stays_zero() -> None:
    x = torch.randn(3, 5, dtype=torch.float64)
    assert_close(l2_normalize(1e3 * x), F.normalize(x, dim=-1))
    assert not l2_normalize(torch.zeros(3, 5)).any()


@pytest.mark.parametrize("limit", [1.0, 4.0, 8.0, 32.0, 64.0])
def test_a_norm_within_its_bound_passes_bit_for_bit(limit: float) -> None:
    x = F.normalize(torch.randn(5, 12), dim=-1) * torch.linspace(0, 0.99 * limit, 5)[:, None]
    assert torch.equal(bound_norm(x, limit, axes=(-1,)), x)


def test_a_norm_above_its_bound_keeps_its_direction_alone() -> None:
    x = 100 * torch.randn(2, 3, 4, 5, dtype=torch.float64)
    y = bound_norm(x, 8.0, axes=(-2, -1))
    assert_close(y.flatten(2).norm(dim=-1), torch.full((2, 3), 8.0, dtype=torch.float64))
    assert_close(F.normalize(y.flatten(2), dim=-1), F.normalize(x.flatten(2), dim=-1))


def test_a_direction_has_norm_one() -> None:
    directions = bound_direction(1e3 * torch.randn(3, 4, 5, dtype=torch.float64))
    assert_close(directions.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5)])
def test_a_row_that_is_not_finite_is_refused_whole(value: float, shape: tuple[int, ...]) -> None:
    old, new = torch.randn(shape), torch.randn(shape)
    new.view(3, -1)[1, 2] = value
    kept, applied = keep_finite(new, old)
    assert applied.tolist() == [True, False, True]
    assert torch.equal(kept[1], old[1])
    assert torch.equal(kept[[0, 2]], new[[0, 2]])


def test_rows_of_single_numbers_are_looked_at_one_by_one() -> None:
    """As a GPU does with every tensor, and a CPU where the sum is not finite."""
    assert finite_rows(torch.tensor([1.0, float("nan"), 3.0])).tolist() == [True, False, True]


def test_finite_rows_are_all_kept() -> None:
    new = torch.randn(3, 4)
    kept, applied = keep_finite(new, torch.zeros(3, 4))
    assert torch.equal(kept, new)
    assert applied.tolist() == [True] * 3


def test_a_refused_row_takes_its_gradient_from_what_it_keeps() -> None:
    new, old = torch.randn(2, 3), torch.randn(2, 3)
    new[1, 0] = float("nan")
    kept, _ = keep_finite(new.requires_grad_(), old.requires_grad_())
    through_new, through_old = torch.autograd.grad(kept.sum(), (new, old))
    assert through_new.tolist() == [[1.0] * 3, [0.0] * 3]
    assert through_old.tolist() == [[0.0] * 3, [1.0] * 3]


def test_memories_keep_their_precision_under_autocast() -> None:
    x = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(x):
            assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize("parts", COMBINATIONS, ids=str)
def test_a_states_tensors_stay_fp32_under_autocast(parts: Parts) -> None:
    model = small_model(parts, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, state = model(random_tokens(2, 20), model.initial_state(2))
    assert {t.dtype for t in state.values()} == {torch.float32, torch.int64}
    assert state["writes"].tolist() == [due_writes(model, 20)] * 2


@pytest.mark.parametrize("parts", COMBINATIONS, ids=str)
def test_every_slow_weight_gets_a_finite_gradient(parts: Parts) -> None:
    """From a session's first token on, when most memories and moments are zero."""
    model = copy.deepcopy(small_model(parts)).requires_grad_()
    tokens = random_tokens(2, 41)
    logits, _ = model(tokens[:, :-1], model.initial_state(2))
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    names, weights = zip(*model.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(loss, weights), strict=True))
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
    assert [name for name, gradient in gradients.items() if not gradient.any()] == []


@pytest.mark.parametrize("read", [by_steps, in_one_call])
@pytest.mark.parametrize("parts", COMBINATIONS, ids=str)
def test_a_session_of_one_repeated_token_stays_finite(
    parts: Parts, read: Callable[..., tuple[Tensor, State]]
) -> None:
    """The strongest resonance there is: the same key and value for ever."""
    model = small_model(parts, torch.float32)
    logits, state = read(model, torch.full((1, 160), 7), model.initial_state(1))
    assert bool(logits.isfinite().all())
    assert all(bool(t.isfinite().all()) for t in state.values())
    assert not state["refused"].any()


LIMITS = {"phi.memory": delta.MAX_NORM, "phi.projections": delta.MAX_NORM, "phi.fast": gated.MAX_NORM}
LIMITS |= {"phi.matrix": matrix.MAX_NORM, "phi.hidden": selective.MAX_NORM}
LIMITS |= {"fast.delta": cms.MAX_NORM, "slower.delta": cms.MAX_NORM}
LIMITS |= {
    f"phi.{memory}{layer}{kind}": gradient.MAX_NORM
    for memory in ("", "memory.", "vectors.", "scalars.")
    for layer in ("inner", "outer")
    for kind in ("", "_next", "_momentum")
}


@pytest.mark.parametrize("read", [by_steps, in_one_call])
@pytest.mark.parametrize("parts", COMBINATIONS, ids=str)
def test_memories_that_grew_too_large_are_bounded_at_the_next_boundary(
    parts: Parts, read: Callable[..., tuple[Tensor, State]]
) -> None:
    """Each matrix of its own: a head's memory, or a level's."""
    model = small_model(parts)
    state = state_at(model, 1, 13)
    bounded = [name for name in state if name.endswith(tuple(LIMITS))]
    grown = {name: t + 1e4 if t.is_floating_point() else t for name, t in state.items()}
    _, after = read(model, random_tokens(1, 3), grown)
    assert bounded
    for name in bounded:
        axes = (-2, -1) if after[name].dim() > 2 else -1
        norms = after[name].norm(dim=axes)
        limit = LIMITS[name.split(".", 2)[2]]
        assert float(norms.max()) <= limit * 1.000001, name


@pytest.mark.parametrize("write_rule", ["sgd", "momentum", "adam"])
def test_one_write_moves_a_level_by_a_bounded_step(write_rule: str) -> None:
    """Adam's update of 144 entries has norm 12 at rate one: only the bound keeps it at 4."""
    model = copy.deepcopy(small_model(Parts(write_rule=write_rule)))
    level = next(module for module in model.modules() if isinstance(module, cms.AssociativeLevel))
    level.step_length.fill_(50.0)
    level.retention.fill_(50.0)
    state = state_at(model, 1, 7)
    _, after = model.step(random_tokens(1, 1)[0], state)
    moved = (after["layers.0.fast.delta"] - state["layers.0.fast.delta"]).norm()
    assert 0 < float(moved) <= cms.MAX_STEP * 1.000001
