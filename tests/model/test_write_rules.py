"""Write rules follow ``torch.optim`` step by step on the same gradients; each row has its own memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.model.small import assert_close, assert_same_state, clone, join, row_of
from torch import Tensor, optim

from hope_model.state import State, TensorSpec
from hope_model.write_rules import WRITE_RULES
from hope_model.write_rules.adam import Adam
from hope_model.write_rules.base import WriteRule
from hope_model.write_rules.momentum import Momentum
from hope_model.write_rules.sgd import SGD

B, V, K = 3, 4, 5
WRITES, RATE = 12, 0.3


@pytest.fixture(params=sorted(WRITE_RULES))
def rule(request: pytest.FixtureRequest) -> WriteRule:
    made: WriteRule = WRITE_RULES[request.param]()
    return made


def _moments(rule: WriteRule, rows: int = B) -> State:
    return {
        spec.name: torch.zeros(rows, *spec.shape, dtype=_type(spec)) for spec in rule.spec("fast", (V, K))
    }


def _type(spec: TensorSpec) -> torch.dtype:
    return torch.float64 if spec.dtype.is_floating_point else spec.dtype


def _gradients(seed: int = 0, rows: int = B) -> Tensor:
    """``[WRITES, B, V, K]`` of very different sizes; one entry never moves."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(WRITES, rows, V, K, dtype=torch.float64, generator=generator)
    gradients *= torch.logspace(-6, 2, WRITES, dtype=torch.float64)[:, None, None, None]
    gradients[..., 0, 0] = 0.0
    return gradients


def _write(rule: WriteRule, gradients: Tensor, moments: State) -> tuple[Tensor, State]:
    """All updates ``[WRITES, B, V, K]`` and the moments after the last."""
    updates = []
    for gradient in gradients:
        update, moments = rule.update(gradient, moments, RATE)
        updates.append(update)
    return torch.stack(updates), moments


def _sgd(weight: Tensor) -> optim.Optimizer:
    return optim.SGD([weight], lr=RATE)


def _momentum(weight: Tensor) -> optim.Optimizer:
    """torch fills its buffer with the first gradient whole; here the memory starts at zero as in E16."""
    optimizer = optim.SGD([weight], lr=RATE, momentum=0.9, dampening=0.9)
    optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def _adam(weight: Tensor) -> optim.Optimizer:
    return optim.Adam([weight], lr=RATE, betas=(0.9, 0.999), eps=1e-8)


@pytest.mark.parametrize(("rule", "twin"), [(SGD(), _sgd), (Momentum(), _momentum), (Adam(), _adam)])
def test_it_follows_torch_optim_step_by_step(
    rule: WriteRule, twin: Callable[[Tensor], optim.Optimizer]
) -> None:
    weight = torch.randn(B, V, K, dtype=torch.float64, requires_grad=True)
    optimizer, moments, mine = twin(weight), _moments(rule), weight.detach().clone()
    for gradient in _gradients():
        update, moments = rule.update(gradient, moments, RATE)
        mine = mine - update
        weight.grad = gradient.clone()
        optimizer.step()
        assert_close(mine, weight.detach())


def test_momentum_without_dampening_is_the_same_at_a_smaller_rate() -> None:
    """``torch.optim.SGD`` as it is usually called, from its own first step on."""
    weight = torch.zeros(B, V, K, dtype=torch.float64, requires_grad=True)
    optimizer = optim.SGD([weight], lr=RATE * (1 - 0.9), momentum=0.9)
    gradients = _gradients()
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    updates, _ = _write(Momentum(), gradients, _moments(Momentum()))
    assert_close(-updates.sum(0), weight.detach())


def test_rows_that_have_written_before_keep_their_own_count(rule: WriteRule) -> None:
    """A batch of rows with 0, 12 and 24 writes behind them equals each alone."""
    moments, fresh = _moments(rule, 1), _moments(rule, 1)
    histories = [fresh]
    for seed in (1, 2):
        _, moments = _write(rule, _gradients(seed, rows=1), moments)
        histories.append(moments)
    gradients = _gradients(3)
    updates, after = _write(rule, gradients, join(histories) if fresh else {})
    for row, history in enumerate(histories):
        expected, expected_moments = _write(rule, gradients[:, row : row + 1], history)
        assert_close(updates[:, row : row + 1], expected)
        assert_same_state(row_of(after, row), expected_moments)


def test_adam_counts_the_writes_of_each_row() -> None:
    moments = {**_moments(Adam()), "count": torch.tensor([0, 5, 9])}
    _, after = Adam().update(_gradients()[0], moments, RATE)
    assert after["count"].tolist() == [1, 6, 10]


def test_moments_keep_their_declared_form(rule: WriteRule) -> None:
    moments = _moments(rule)
    _, after = _write(rule, _gradients(), moments)
    assert {name: (m.shape, m.dtype) for name, m in after.items()} == {
        name: (m.shape, m.dtype) for name, m in moments.items()
    }


def test_moments_that_were_given_are_not_written(rule: WriteRule) -> None:
    moments = _moments(rule)
    before = clone(moments)
    rule.update(_gradients()[0], moments, RATE)
    assert_same_state(moments, before, tolerance=0.0)


def test_the_rate_scales_the_update(rule: WriteRule) -> None:
    gradient = _gradients()[0]
    once, _ = rule.update(gradient, _moments(rule), RATE)
    twice, _ = rule.update(gradient, _moments(rule), torch.tensor([2 * RATE], dtype=torch.float64))
    assert_close(twice, 2 * once)


def test_a_row_of_nan_leaves_its_neighbours_bit_identical(rule: WriteRule) -> None:
    gradient = _gradients()[0]
    expected, _ = rule.update(gradient, _moments(rule), RATE)
    update, _ = rule.update(gradient.index_fill(0, torch.tensor([1]), float("nan")), _moments(rule), RATE)
    assert torch.equal(update[[0, 2]], expected[[0, 2]])
    assert bool(update[1].isnan().all())


def test_gradients_through_a_write_are_finite_where_nothing_moved(rule: WriteRule) -> None:
    """Meta-training goes through the write, and an entry at zero must not spoil it."""
    gradient = torch.zeros(B, V, K, dtype=torch.float64, requires_grad=True)
    update, moments = rule.update(gradient, _moments(rule), RATE)
    update, _ = rule.update(gradient, moments, RATE)
    (through,) = torch.autograd.grad(update.sum(), gradient)
    assert bool(through.isfinite().all())
