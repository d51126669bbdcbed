"""φ rule ``delta`` against one session, one head and one token at a time, as eq 93 of the paper reads."""

from __future__ import annotations

import pytest
import torch
from tests.model.small import assert_close, assert_same_state, build, small_config, small_model
from torch import Tensor
from torch.nn import functional as F

from hope_model.guards import bound_norm, l2_normalize
from hope_model.rules.delta import MAX_NORM, MAX_RATE, DeltaRule
from hope_model.state import State

CHUNK = 8


@pytest.fixture
def rule() -> DeltaRule:
    block = small_model().blocks[0]
    assert isinstance(block.phi, DeltaRule)
    return block.phi


def _random_state(rule: DeltaRule) -> State:
    return {spec.name: 0.3 * torch.randn(1, *spec.shape, dtype=torch.float64) for spec in rule.spec()}


def _equations(rule: DeltaRule, x: Tensor, state: State, position: int) -> tuple[Tensor, State]:
    """E6 to E10 for ``x [T, D]``: every memory is ``z -> (initial + learned) z + z``, rates without ``+ z``.

    ``M' = M (α I - η k k^T) - η (M k - M v) k^T``: what the gradient compares are whole readings, residual
    included; the erasure acts on the matrix alone, and α on what was learned.
    """
    state = {name: tensor[0].clone() for name, tensor in state.items()}
    memory, past = state["memory"], [*state["window"]]
    anchor, pending = state["projections"], state["projections_next"]
    heads, K = memory.shape[0], memory.shape[-1]
    outputs = []
    for t, token in enumerate(x, start=position):
        past.append(rule.inputs.weight @ token)
        width = len(rule.convolution.taps)
        inner = F.silu(sum(tap * u for tap, u in zip(rule.convolution.taps, past[-width:], strict=True)))
        queries, reads = rule.query.weight @ inner, []
        for h in range(heads):
            z, q = inner.view(heads, K)[h], l2_normalize(queries.view(heads, K)[h])
            maps = rule.projections_initial[h] + anchor[h]
            whole = maps + torch.cat((torch.eye(K), torch.eye(K), torch.zeros(2, K))).double()
            k, v = l2_normalize((whole @ z)[:K]), l2_normalize((whole @ z)[K : 2 * K])
            eta = MAX_RATE * torch.sigmoid((whole @ z)[2 * K] + rule.rate_bias[h])
            alpha = torch.sigmoid((whole @ z)[2 * K + 1] + rule.retention_bias[h])

            matrix = rule.memory_initial[h] + memory[h]
            reads.append(matrix @ q + q)  # before the write
            error = (matrix @ k + k) - (matrix @ v + v)
            memory[h] = alpha * memory[h] - eta * torch.outer(matrix @ k, k) - eta * torch.outer(error, k)

            slow = eta * torch.sigmoid(rule.projection_rate[h])
            keep = torch.sigmoid(rule.projection_retention[h])
            written = rule.projections_initial[h] + pending[h]
            error = whole @ k - whole @ v  # as the chunk began
            pending[h] = keep * pending[h] - slow * torch.outer(written @ k, k) - slow * torch.outer(error, k)
        if (t + 1) % CHUNK == 0:
            memory = bound_norm(memory, MAX_NORM, axes=(-2, -1))
            pending = bound_norm(pending, MAX_NORM, axes=(-2, -1))
            anchor = pending.clone()
        normed = torch.cat([o / (o.square().mean() + 1e-6).sqrt() for o in reads])
        outputs.append(rule.output.weight @ (normed * rule.output_gain * F.silu(rule.gate.weight @ token)))
    window = torch.stack(past[-3:])
    after = {"memory": memory, "window": window, "projections": anchor, "projections_next": pending}
    return torch.stack(outputs), {name: tensor[None] for name, tensor in after.items()}


@pytest.mark.parametrize("position", [0, 5, 7])
def test_a_run_follows_the_equations(rule: DeltaRule, position: int) -> None:
    """hope.md §3.1 rows 13 and 15, over three chunks and their boundaries."""
    x, state = torch.randn(1, 20, 16, dtype=torch.float64), _random_state(rule)
    y, after, _ = rule(x, state, position)
    expected, expected_state = _equations(rule, x[0], state, position)
    assert_close(y[0], expected)
    assert_same_state(after, expected_state)


def test_one_step_follows_the_equations(rule: DeltaRule) -> None:
    x, state = torch.randn(1, 16, dtype=torch.float64), _random_state(rule)
    y, after, applied = rule.step(x, state, torch.tensor([7]))
    expected, expected_state = _equations(rule, x, state, 7)
    assert_close(y, expected)
    assert_same_state(after, expected_state)
    assert {name: wrote.tolist() for name, wrote in applied.items()} == {"phi": [1], "projections": [1]}


def test_what_is_written_in_a_chunk_shapes_its_keys_from_the_next_on(rule: DeltaRule) -> None:
    """Projections are read as the chunk found them; pending writes reach nothing before its end."""
    x, state = torch.randn(1, 16, 16, dtype=torch.float64), _random_state(rule)
    other = {**state, "projections_next": state["projections_next"] + 1}
    (y, _, _), (changed, _, _) = rule(x, state, 0), rule(x, other, 0)
    assert torch.equal(y[:, :CHUNK], changed[:, :CHUNK])
    assert not torch.isclose(y[:, CHUNK:], changed[:, CHUNK:]).all()


def test_a_token_is_read_before_it_is_written(rule: DeltaRule) -> None:
    """The output of a token does not depend on the rate at which it is learned; the next one's does."""
    x, state = torch.randn(1, 2, 16, dtype=torch.float64), _random_state(rule)
    y, _, _ = rule(x, state, 0)
    rate_bias = rule.rate_bias.clone()
    try:
        rule.rate_bias.fill_(-50.0)
        frozen, _, _ = rule(x, state, 0)
    finally:
        rule.rate_bias.copy_(rate_bias)
    assert torch.equal(y[:, 0], frozen[:, 0])
    assert not torch.isclose(y[:, 1], frozen[:, 1]).all()


def test_drift_is_measured_against_the_whole_map(rule: DeltaRule) -> None:
    """A memory that has learned nothing is still ``initial + I``, and that is the denominator."""
    eye = torch.eye(8, dtype=torch.float64)
    norms = rule.reference_norms()
    assert_close(norms["phi"], (rule.memory_initial + eye).norm())
    maps = rule.projections_initial.clone()
    maps[:, :8] += eye
    maps[:, 8:16] += eye
    assert_close(norms["projections"], maps.norm())


def test_heads_may_be_of_one_feature() -> None:
    model = build(small_config(heads=16))
    tokens = torch.arange(20)[None] % model.config.vocab_size
    logits, state = model(tokens, model.initial_state(1))
    first, before = model(tokens[:, :-1], model.initial_state(1))
    last, after = model.step(tokens[:, -1], before)
    assert_close(torch.cat((first, last[:, None]), 1), logits)
    assert_same_state(after, state)
