"""φ rule ``gated`` against its equation, token by token."""

from __future__ import annotations

import torch
from tests.model.small import Parts, assert_close, small_model

from hope_model.rules.gated import MAX_NORM, GatedRule


def _rule() -> GatedRule:
    block = small_model(Parts(rule="gated")).blocks[0]
    assert isinstance(block.phi, GatedRule)
    return block.phi


def test_a_run_follows_the_equation() -> None:
    """E11: ``φ' = (1 - g) φ + g Δ`` with ``g = σ(W_g [φ; x])``, ``Δ = W_Δ [φ; x]``; ``φ`` is read first."""
    rule, x = _rule(), torch.randn(2, 9, 16, dtype=torch.float64)
    start = 0.3 * torch.randn(2, 16, dtype=torch.float64)
    y, after, applied = rule(x, {"fast": start}, 5)
    phi = rule.initial + start
    for t in range(9):
        context = torch.cat((phi, x[:, t]), dim=-1)
        assert_close(y[:, t], context @ rule.output.weight.T)
        gate = torch.sigmoid(context @ rule.gate.weight.T + rule.gate.bias)
        phi = (1 - gate) * phi + gate * (context @ rule.candidate.weight.T)
    assert_close(after["fast"], phi - rule.initial)
    assert applied["phi"].tolist() == [9, 9]


def test_the_fast_state_is_bounded_at_every_token() -> None:
    rule = _rule()
    start = torch.full((1, 16), 1e6, dtype=torch.float64)
    _, after, _ = rule.step(torch.zeros(1, 16, dtype=torch.float64), {"fast": start}, torch.tensor([0]))
    assert float(after["fast"].norm()) <= MAX_NORM * 1.000001


def test_a_token_that_is_not_finite_is_not_learned() -> None:
    """The write is refused and counted, and the session goes on from what it knew."""
    rule = _rule()
    start = 0.3 * torch.randn(2, 16, dtype=torch.float64)
    x = torch.randn(2, 16, dtype=torch.float64)
    x[1, 3] = float("inf")
    _, after, applied = rule.step(x, {"fast": start}, torch.tensor([0, 0]))
    assert applied["phi"].tolist() == [1, 0]
    assert torch.equal(after["fast"][1], start[1])
