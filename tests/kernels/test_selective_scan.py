"""E38: the selective state space over many tokens equals its tokens one after another, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.selective_scan import selective_scan, selective_step

B, C, N = 2, 5, 3


def _inputs(tokens: int) -> dict[str, Tensor]:
    return {
        "hidden": torch.randn(B, C, N, dtype=torch.float64),
        "x": torch.randn(B, tokens, C, dtype=torch.float64),
        "delta": F.softplus(torch.randn(B, tokens, C, dtype=torch.float64)),
        "a": -torch.rand(C, N, dtype=torch.float64),
        "b": torch.randn(B, tokens, N, dtype=torch.float64),
        "c": torch.randn(B, tokens, N, dtype=torch.float64),
    }


def _one_by_one(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    hidden, reads = inputs["hidden"], []
    for t in range(inputs["x"].shape[1]):
        own = {name: inputs[name][:, t] for name in ("x", "delta", "b", "c")}
        read, hidden = selective_step(hidden, a=inputs["a"], **own)
        reads.append(read)
    return torch.stack(reads, dim=1), hidden


@pytest.mark.parametrize("tokens", [1, 15, 16, 35])
def test_a_run_equals_its_tokens(tokens: int) -> None:
    inputs = {name: tensor.requires_grad_() for name, tensor in _inputs(tokens).items()}
    found, expected = selective_scan(**inputs), _one_by_one(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = [torch.randn_like(tensor) for tensor in expected]

    def gradients(outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        loss = sum((weight * output).sum() for weight, output in zip(weights, outputs, strict=True))
        assert isinstance(loss, Tensor)
        return torch.autograd.grad(loss, list(inputs.values()))

    torch.testing.assert_close(gradients(found), gradients(expected), rtol=1e-8, atol=1e-9)


def test_a_token_follows_the_equation() -> None:
    inputs = _inputs(1)
    read, hidden = selective_step(
        inputs["hidden"], a=inputs["a"], **{name: inputs[name][:, 0] for name in ("x", "delta", "b", "c")}
    )
    for row in range(B):
        for i in range(C):
            step = inputs["delta"][row, 0, i]
            kept = torch.exp(step * inputs["a"][i]) * inputs["hidden"][row, i]
            own = kept + step * inputs["x"][row, 0, i] * inputs["b"][row, 0]
            torch.testing.assert_close(hidden[row, i], own)
            torch.testing.assert_close(read[row, i], own @ inputs["c"][row, 0])


def test_the_states_between_are_computed_again() -> None:
    """What is kept for the backward is one state for 16 tokens."""
    inputs = {name: tensor.requires_grad_() for name, tensor in _inputs(64).items()}
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        selective_scan(**inputs)
    assert max(kept) == max(4 * B * C * N, inputs["x"].numel()) < 64 * B * C * N
