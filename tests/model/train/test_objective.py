"""What is minimised: carried state changes nothing but the cost, resets start anew, the yardstick fits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hope_model.config import CONFIGS
from hope_model.hope import Hope
from hope_model.state import State
from hope_model.train.objective import HopeObjective, TransformerObjective, cross_entropy

NONE = torch.zeros(2, dtype=torch.bool)


@pytest.fixture
def objective() -> HopeObjective:
    """In fp64, with memories away from their initial values."""
    torch.manual_seed(3)
    objective = HopeObjective(CONFIGS["test"])
    objective.model.double()
    return objective


def _tokens(length: int) -> Tensor:
    return torch.randint(300, (2, length), generator=torch.Generator().manual_seed(length))


def _row(state: State, row: int) -> State:
    return {name: tensor[row] for name, tensor in state.items()}


@pytest.mark.parametrize("cut", [1, 27, 32, 75])
def test_two_windows_with_carried_state_equal_one(objective: HopeObjective, cut: int) -> None:
    tokens, start = _tokens(97), objective.initial_state(2)
    first, state = objective.loss(tokens[:, : cut + 1], NONE, start)
    second, state = objective.loss(tokens[:, cut:], NONE, state)
    whole, expected = objective.loss(tokens, NONE, start)
    torch.testing.assert_close((cut * first + (96 - cut) * second) / 96, whole, rtol=1e-9, atol=0)
    torch.testing.assert_close(state, expected, rtol=1e-7, atol=1e-12)


def test_without_the_carried_state_the_loss_is_another(objective: HopeObjective) -> None:
    tokens, start = _tokens(97), objective.initial_state(2)
    _, carried = objective.loss(tokens[:, :49], NONE, start)
    fresh, _ = objective.loss(tokens[:, 48:], NONE, start)
    going_on, _ = objective.loss(tokens[:, 48:], NONE, carried)
    assert not torch.isclose(fresh, going_on, rtol=1e-6)


def test_a_reset_row_is_a_fresh_one(objective: HopeObjective) -> None:
    tokens = _tokens(41)
    _, carried = objective.loss(_tokens(30), NONE, objective.initial_state(2))
    _, after = objective.loss(tokens, torch.tensor([True, False]), carried)
    _, fresh = objective.loss(tokens, NONE, objective.initial_state(2))
    torch.testing.assert_close(_row(after, 0), _row(fresh, 0), rtol=1e-9, atol=1e-12)


def test_a_row_beside_a_reset_keeps_its_state(objective: HopeObjective) -> None:
    tokens = _tokens(41)
    _, carried = objective.loss(_tokens(30), NONE, objective.initial_state(2))
    _, after = objective.loss(tokens, torch.tensor([True, False]), carried)
    _, kept = objective.loss(tokens, NONE, carried)
    torch.testing.assert_close(_row(after, 1), _row(kept, 1), rtol=1e-9, atol=1e-12)


def test_a_reset_leaves_the_given_state_alone(objective: HopeObjective) -> None:
    _, carried = objective.loss(_tokens(30), NONE, objective.initial_state(2))
    before = {name: tensor.clone() for name, tensor in carried.items()}
    objective.loss(_tokens(41), ~NONE, carried)
    torch.testing.assert_close(carried, before, rtol=0, atol=0)


def test_gradients_stop_between_windows(objective: HopeObjective) -> None:
    _, state = objective.loss(_tokens(41), NONE, objective.initial_state(2))
    assert not any(tensor.requires_grad for tensor in state.values())


def test_every_parameter_has_a_gradient_from_a_window_beyond_the_longest_period(
    objective: HopeObjective,
) -> None:
    _, carried = objective.loss(_tokens(41), NONE, objective.initial_state(2))
    loss, _ = objective.loss(_tokens(41), NONE, carried)
    torch.autograd.backward(loss)
    idle = [n for n, p in objective.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_the_loss_is_the_mean_of_all_next_tokens(objective: HopeObjective) -> None:
    tokens = _tokens(11)
    loss, _ = objective.loss(tokens, NONE, objective.initial_state(2))
    logits, _ = objective.model(tokens[:, :-1], objective.initial_state(2))
    chances = logits.softmax(-1).gather(-1, tokens[:, 1:, None])
    torch.testing.assert_close(loss, -chances.log().mean())


def test_the_loss_of_bf16_logits_is_summed_in_fp32() -> None:
    logits = torch.randn(2, 50, 300, generator=torch.Generator().manual_seed(1)).bfloat16()
    targets = torch.zeros(2, 50, dtype=torch.long)
    loss = cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits.double(), targets).float())


def test_the_yardstick_judges_the_same_tokens_without_a_memory() -> None:
    objective, tokens = TransformerObjective("test"), _tokens(41)
    loss, state = objective.loss(tokens, NONE, objective.initial_state(2))
    torch.testing.assert_close(loss, cross_entropy(objective.model(tokens[:, :-1]), tokens[:, 1:]))
    assert state == {}


@pytest.mark.parametrize("name", [*CONFIGS, "test"])
def test_the_yardstick_has_as_many_parameters_within_one_percent(name: str) -> None:
    with torch.device("meta"):
        hope, yardstick = Hope(CONFIGS[name]), TransformerObjective(name).model
    expected = sum(parameter.numel() for parameter in hope.parameters())
    assert sum(parameter.numel() for parameter in yardstick.parameters()) == pytest.approx(expected, rel=0.01)
    assert len(yardstick.blocks) == len(hope.blocks)
    assert yardstick.config.width == hope.config.width
