"""E30, E39: chunks of matrix memories equal their tokens one after another, from any start."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.delta_memory.triangular import inverse_with_gradient
from hope_kernels.matrix_memory import ChunkMix, Erasure, LayerWrites, chunk_maps, matrix_step, momentum_step

B, H, K, V = 2, 3, 5, 7
LENGTHS = [1, 2, 13, 64]
CASES = ["decay", "one key", "two keys", "by channel", "by channel, two keys"]

Terms = dict[str, Tensor]


def _unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(shape, dtype=torch.float64), dim=-1)


def _terms(case: str, tokens: int, decay: float = 0.5) -> Terms:
    shape = (B, H, tokens, K) if "channel" in case else (B, H, tokens)
    terms = {
        "q": _unit(B, H, tokens, K),
        "w": torch.randn(B, H, tokens, V, dtype=torch.float64),
        "k": _unit(B, H, tokens, K),
        "log_alpha": -decay * torch.rand(shape, dtype=torch.float64),
    }
    if "key" in case:
        terms["a"] = -0.5 * _unit(B, H, tokens, K)
    if "two" in case:
        terms["b"] = _unit(B, H, tokens, K)
    return terms


def _one_by_one(memory: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    reads = []
    for t in range(terms["q"].shape[2]):
        read, memory = matrix_step(memory, **{name: term[:, :, t] for name, term in terms.items()})
        reads.append(read)
    return torch.stack(reads, dim=2), memory


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_a_chunk_equals_its_tokens(case: str, tokens: int) -> None:
    memory, terms = torch.randn(B, H, V, K, dtype=torch.float64), _terms(case, tokens)
    read, after = _one_by_one(memory, terms)
    maps = chunk_maps(**terms)
    torch.testing.assert_close(torch.matmul(maps.read, memory.mT) + maps.found, read, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.matmul(memory, maps.carry) + maps.add, after, rtol=1e-9, atol=1e-9)


def test_a_token_follows_the_equation() -> None:
    """``M diag(α) + (M a) bᵀ + w kᵀ``, read after it was written."""
    terms = {name: term[:, :, 0] for name, term in _terms("by channel, two keys", 1).items()}
    memory = torch.randn(B, H, V, K, dtype=torch.float64)
    read, after = matrix_step(memory, **terms)
    for row in range(B):
        for h in range(H):
            own = {name: term[row, h] for name, term in terms.items()}
            m = memory[row, h]
            m = m @ own["log_alpha"].exp().diag() + (m @ own["a"]).outer(own["b"]) + own["w"].outer(own["k"])
            torch.testing.assert_close(after[row, h], m)
            torch.testing.assert_close(read[row, h], m @ own["q"])


@pytest.mark.parametrize("case", CASES)
def test_gradients_reach_every_term(case: str) -> None:
    terms = {name: term.requires_grad_() for name, term in _terms(case, 6).items()}
    memory = torch.randn(B, H, V, K, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(_one_by_one(memory, terms)[0].square().sum(), [memory, *terms.values()])
    maps = chunk_maps(**terms)
    read = torch.matmul(maps.read, memory.mT) + maps.found
    found = torch.autograd.grad(read.square().sum(), [memory, *terms.values()])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_a_memory_that_forgets_at_once_does_not_overflow() -> None:
    terms = {name: term.float() for name, term in _terms("one key", 64, decay=20.0).items()}
    maps = chunk_maps(**terms)
    read, after = _one_by_one(torch.ones(B, H, V, K), terms)
    torch.testing.assert_close(maps.read.sum(-1, keepdim=True) + maps.found, read, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(maps.carry.sum(-2)[:, :, None] + maps.add, after, rtol=1e-3, atol=1e-5)


def test_the_inverse_has_the_gradient_of_an_inverse() -> None:
    lower = torch.randn(2, 6, 6, dtype=torch.float64).tril(-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: inverse_with_gradient(x.tril(-1)), lower)
    torch.testing.assert_close(
        inverse_with_gradient(lower), torch.linalg.inv(torch.eye(6, dtype=torch.float64) - lower)
    )


@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize("erase", [False, True])
@pytest.mark.parametrize("momentum", [False, True])
def test_writes_with_momentum_and_erasure_equal_their_tokens(
    momentum: bool, erase: bool, tokens: int
) -> None:
    """Readers after the write and, strict, before it; from a memory and a momentum that are not zero."""
    base = torch.randn(H, V, K, dtype=torch.float64)
    delta, start = torch.randn(2, B, H, V, K, dtype=torch.float64)
    k, q, w = (
        _unit(B, H, tokens, K),
        _unit(B, H, tokens, K),
        torch.randn(B, H, tokens, V, dtype=torch.float64),
    )
    gates = torch.rand(3, B, H, tokens, dtype=torch.float64)
    log_alpha, log_beta, eta = (
        gates[0].log(),
        gates[1].log() if momentum else None,
        gates[2] if erase else None,
    )
    mix = ChunkMix(log_alpha, log_beta)
    erasure = None if eta is None else Erasure(mix, k, eta)
    writes = LayerWrites(mix, delta, start if momentum else None, base, k=k, w=w, erasure=erasure)
    before, after, gathered, expected = [], [], start if momentum else None, delta
    for t in range(tokens):
        before.append(torch.matmul(base + expected, q[:, :, t, :, None])[..., 0])
        expected, gathered = momentum_step(
            expected,
            gathered,
            base,
            k=k[:, :, t],
            w=w[:, :, t],
            alpha=gates[0, :, :, t],
            beta=None if log_beta is None else gates[1, :, :, t],
            eta=None if eta is None else eta[:, :, t],
        )
        after.append(torch.matmul(base + expected, q[:, :, t, :, None])[..., 0])
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
    close(writes.read(q, strict=True), torch.stack(before, 2))
    close(writes.read(q, strict=False), torch.stack(after, 2))
    found, found_momentum = writes.end()
    close(found, expected)
    assert (found_momentum is None) == (not momentum)
    if gathered is not None and found_momentum is not None:
        close(found_momentum, gathered)
