"""A CMS level against autograd and its equations, one session at a time."""

from __future__ import annotations

import pytest
import torch
from tests.model.small import Parts, assert_close, assert_same_state, small_model
from torch import Tensor

from hope_model.cms import MAX_NORM, MAX_STEP, AssociativeLevel, bound_direction
from hope_model.guards import bound_norm
from hope_model.state import State
from hope_model.write_rules import WRITE_RULES

PERIOD = 8


@pytest.fixture(params=sorted(WRITE_RULES))
def level(request: pytest.FixtureRequest) -> AssociativeLevel:
    return _level(request.param)


def _level(write_rule: str) -> AssociativeLevel:
    modules = small_model(Parts(write_rule=write_rule)).modules()
    level = next(module for module in modules if isinstance(module, AssociativeLevel))
    assert level.level.period == PERIOD
    return level


def _random_state(level: AssociativeLevel) -> State:
    """Nothing at zero; a second moment is never negative."""
    return {
        spec.name: torch.full((1,), 3)
        if spec.dtype == torch.int64
        else 0.3 * torch.rand(1, *spec.shape, dtype=torch.float64)
        for spec in level.spec()
    }


def _terms(level: AssociativeLevel, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit keys of the positive parts and unit values ``[M]``, a rate in (0, 1), of one token ``x [D]``."""
    h = x / (x.square().mean() + 1e-6).sqrt() * level.norm.gain
    key, value = (level.key.weight @ h + level.key.bias).clamp_min(0), level.value.weight @ h
    rate = torch.sigmoid(level.rate.weight @ h + level.rate.bias)
    return key / (key.square().sum() + 1e-6).sqrt(), value / (value.square().sum() + 1e-6).sqrt(), rate


def _equations(level: AssociativeLevel, x: Tensor, state: State, position: int) -> tuple[Tensor, State]:
    """E12 to E14 for ``x [T, D]``; the gradient of ``½ rate ||W k_{t-1} - v_t||²`` comes from autograd."""
    state = {name: tensor[0] for name, tensor in state.items()}
    readings = []
    for t, token in enumerate(x, start=position):
        key, value, rate = _terms(level, token)
        readings.append(level.output.weight @ (level.base + state["delta"]) @ key)
        learned = state["delta"].clone().requires_grad_()
        recalled = (level.base + learned) @ state["last_key"]
        loss = 0.5 * rate * (recalled - value).square().sum()
        (gradient,) = torch.autograd.grad(loss.sum(), learned)
        state = {**state, "gradient": state["gradient"] + gradient, "last_key": key}
        if (t + 1) % PERIOD == 0:
            state = _written(level, state)
    return torch.stack(readings), {name: tensor[None] for name, tensor in state.items()}


def _written(level: AssociativeLevel, state: State) -> State:
    names = [spec.name for spec in level.rule.spec("fast", ())]
    direction = state["gradient"] / (state["gradient"].square().sum() + 1e-8).sqrt()
    rate = MAX_STEP * torch.sigmoid(level.step_length)
    update, moments = level.rule.update(direction[None], {name: state[name][None] for name in names}, rate)
    kept = torch.sigmoid(level.retention) * state["delta"]
    moved = kept - bound_norm(update[0], MAX_STEP, axes=(-2, -1))
    return {
        **state,
        **{name: moment[0] for name, moment in moments.items()},
        "delta": bound_norm(moved, MAX_NORM, axes=(-2, -1)),
        "gradient": torch.zeros_like(moved),
    }


@pytest.mark.parametrize("position", [0, 5, 7])
def test_a_run_follows_the_equations(level: AssociativeLevel, position: int) -> None:
    """hope.md §3.1 row 8: the gathered gradient is autograd's; over two writes and what follows."""
    x, state = torch.randn(1, 20, 16, dtype=torch.float64), _random_state(level)
    y, after, applied = level(x, state, position)
    expected, expected_state = _equations(level, x[0], state, position)
    assert_close(y[0], expected)
    assert_same_state(after, expected_state)
    assert applied.tolist() == [[True] * ((position + 20) // PERIOD)]


@pytest.mark.parametrize("position", [3, 7])
def test_one_step_follows_the_equations(level: AssociativeLevel, position: int) -> None:
    x, state = torch.randn(1, 16, dtype=torch.float64), _random_state(level)
    y, after, applied = level.step(x, state, torch.tensor([position]))
    expected, expected_state = _equations(level, x, state, position)
    assert_close(y, expected)
    assert_same_state(after, expected_state)
    assert applied.tolist() == [int(position == 7)]


def test_between_two_writes_the_memory_stands_still(level: AssociativeLevel) -> None:
    x, state = torch.randn(1, PERIOD, 16, dtype=torch.float64), _random_state(level)
    _, before, _ = level(x[:, :-1], state, 0)
    _, after, _ = level.step(x[:, -1], before, torch.tensor([PERIOD - 1]))
    assert torch.equal(before["delta"], state["delta"])
    assert not torch.equal(after["delta"], state["delta"])
    assert not after["gradient"].any()


def test_a_write_makes_the_period_it_read_easier_to_foretell() -> None:
    """What learning is for: the squared error over the same tokens falls with the write."""
    level = _level("sgd")
    x, state = torch.randn(1, PERIOD, 16, dtype=torch.float64), _random_state(level)

    def error(delta: Tensor) -> float:
        keys, values, rates = zip(*(_terms(level, token) for token in x[0]), strict=True)
        before = [state["last_key"][0], *keys[:-1]]
        pairs = zip(before, values, rates, strict=True)
        return sum(float(rate * ((level.base + delta) @ k - v).square().sum()) for k, v, rate in pairs)

    state = {**state, "gradient": torch.zeros_like(state["gradient"])}
    _, after, _ = level(x, state, 0)
    direction = after["delta"][0] - state["delta"][0]
    assert error(state["delta"][0] + 0.01 * direction) < error(state["delta"][0])


def test_a_direction_is_bounded_where_the_gradient_is_zero() -> None:
    gradient = torch.zeros(1, 3, 4, dtype=torch.float64, requires_grad=True)
    (through,) = torch.autograd.grad(bound_direction(gradient).sum(), gradient)
    assert not bound_direction(gradient).any()
    assert bool(through.isfinite().all())


def test_the_readout_starts_as_the_transpose_of_the_value_projection() -> None:
    """So that what is foretold points at the next token's features before any training."""
    config = small_model().config
    level = AssociativeLevel(config, config.levels[0])
    level.align()
    output, value = level.output.weight.detach(), level.value.weight.detach()
    assert_close(output / output.norm(), value.T / value.norm(), tolerance=1e-6)
