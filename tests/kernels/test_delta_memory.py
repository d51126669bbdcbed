"""E9: every form of the chunk, the single step and a loop that reads like the equation agree."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

import hope_kernels
from hope_kernels import delta_step
from hope_kernels.delta_memory import reference

B, H, K, V = 2, 3, 5, 7
LENGTHS = [1, 5, 63, 64, 100]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
"""Relative error by dtype: fp64 is the contract; fp32 loses a few of its 24 bits in the triangular solve."""

Inputs = dict[str, Tensor]


@pytest.fixture(params=[reference, hope_kernels], ids=["reference", "fused"])
def form(request: pytest.FixtureRequest) -> ModuleType:
    """A module with ``delta_chunk`` and ``delta_chunk_write``: the plain one, and the one that models use."""
    module: ModuleType = request.param
    return module


def _memory(rows: int = B, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """``(delta [B, H, V, K], base [H, V, K])``, both far from zero."""
    return torch.randn(rows, H, V, K, dtype=dtype), torch.randn(H, V, K, dtype=dtype)


def _inputs(tokens: int, rows: int = B, dtype: torch.dtype = torch.float64) -> Inputs:
    """``a, k, q [B, H, T, K]``, ``w [B, H, T, V]``, ``log_alpha [B, H, T]`` of a stable memory."""

    def unit(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(shape, dtype=dtype), dim=-1)

    rate = 0.5 * torch.rand(rows, H, tokens, 1, dtype=dtype)
    k, v = unit(rows, H, tokens, K), unit(rows, H, tokens, K)
    return {
        "a": rate * (v - 2 * k),
        "w": rate * torch.randn(rows, H, tokens, V, dtype=dtype),
        "k": k,
        "q": unit(rows, H, tokens, K),
        "log_alpha": -0.2 * torch.rand(rows, H, tokens, dtype=dtype),
    }


def _without(inputs: Inputs, *names: str) -> Inputs:
    return {name: x for name, x in inputs.items() if name not in names}


def _steps(delta: Tensor, base: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    reads = []
    for t in range(inputs["k"].shape[2]):
        token = {name: inputs[name][:, :, t] for name in ("a", "w", "k", "q")}
        read, delta = delta_step(delta, base, **token, alpha=inputs["log_alpha"][:, :, t].exp())
        reads.append(read)
    return torch.stack(reads, dim=2), delta


def _equation(delta: Tensor, base: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """E9 for one row and head: ``o = M q``; ``D <- α D + (M a + w) k^T`` with ``M = base + D``."""
    reads, after = torch.zeros(*inputs["w"].shape, dtype=delta.dtype), delta.clone()
    for row in range(delta.shape[0]):
        for head in range(H):
            a, w, k, q, log_alpha = (inputs[x][row, head] for x in ("a", "w", "k", "q", "log_alpha"))
            learned = delta[row, head]
            for t in range(len(k)):
                memory = base[head] + learned
                reads[row, head, t] = memory @ q[t]
                learned = log_alpha[t].exp() * learned + torch.outer(memory @ a[t] + w[t], k[t])
            after[row, head] = learned
    return reads, after


def _assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    size = float(expected.norm()) or 1.0  # what must be zero is measured in absolute terms
    assert float((found - expected).norm()) <= TOLERANCE[expected.dtype] * size


@pytest.mark.parametrize("tokens", LENGTHS)
def test_steps_follow_the_equation(tokens: int) -> None:
    memory, inputs = _memory(), _inputs(tokens)
    for found, expected in zip(_steps(*memory, inputs), _equation(*memory, inputs), strict=True):
        _assert_close(found, expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", LENGTHS)
def test_a_chunk_equals_its_steps_from_any_memory(form: ModuleType, tokens: int, dtype: torch.dtype) -> None:
    """Outputs and state, started from a memory that is not zero (hope.md §3.1 rows 14 and 15)."""
    memory, inputs = _memory(dtype=dtype), _inputs(tokens, dtype=dtype)
    read, after = form.delta_chunk(*memory, **inputs)
    expected, expected_after = _steps(*memory, inputs)
    _assert_close(read, expected)
    _assert_close(after, expected_after)
    assert torch.equal(read.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("tokens", LENGTHS)
def test_the_write_alone_equals_the_chunks_state(form: ModuleType, tokens: int) -> None:
    memory, inputs = _memory(), _inputs(tokens)
    _assert_close(
        form.delta_chunk_write(*memory, **_without(inputs, "q")), form.delta_chunk(*memory, **inputs)[1]
    )


@pytest.mark.parametrize("log_alpha", [0.0, -20.0, -800.0])
def test_a_chunk_equals_its_steps_at_any_retention(form: ModuleType, log_alpha: float) -> None:
    """Nothing is forgotten, nearly all is, and ``alpha`` itself underflows to zero."""
    memory, inputs = _memory(), _inputs(64)
    inputs["log_alpha"] = torch.full_like(inputs["log_alpha"], log_alpha)
    for found, expected in zip(form.delta_chunk(*memory, **inputs), _steps(*memory, inputs), strict=True):
        _assert_close(found, expected)


def test_a_chunk_may_be_cut_anywhere(form: ModuleType) -> None:
    delta, base = _memory()
    inputs, first = _inputs(40), 13
    read, middle = form.delta_chunk(delta, base, **{name: x[:, :, :first] for name, x in inputs.items()})
    rest, after = form.delta_chunk(middle, base, **{name: x[:, :, first:] for name, x in inputs.items()})
    expected, expected_after = form.delta_chunk(delta, base, **inputs)
    _assert_close(torch.cat((read, rest), dim=2), expected)
    _assert_close(after, expected_after)


def test_a_token_is_read_before_it_is_written(form: ModuleType) -> None:
    delta, base = _memory()
    inputs = _inputs(1)
    read, _ = form.delta_chunk(delta, base, **inputs)
    _assert_close(read[:, :, 0], torch.einsum("bhvk,bhk->bhv", base + delta, inputs["q"][:, :, 0]))


@pytest.mark.parametrize("log_alpha", [-0.1, -800.0])
@pytest.mark.parametrize("name", ["a", "w", "k", "q", "log_alpha", "delta", "base"])
def test_gradients_through_a_chunk_equal_those_through_its_steps(
    form: ModuleType, name: str, log_alpha: float
) -> None:
    """hope.md §3.1 row 8: a closed form is checked against autograd, not against another closed form."""
    delta, base = _memory()
    leaves = {"delta": delta, "base": base, **_inputs(20)}
    leaves["log_alpha"] += log_alpha
    inputs = _without(leaves, "delta", "base")
    leaf = leaves[name].requires_grad_()

    def gradient(read: Tensor, after: Tensor) -> Tensor:
        return torch.autograd.grad(read.sin().sum() + after.cos().sum(), leaf)[0]

    found = gradient(*form.delta_chunk(delta, base, **inputs))
    _assert_close(found, gradient(*_steps(delta, base, inputs)))


def test_gradients_through_the_write_alone_equal_those_through_the_chunk(form: ModuleType) -> None:
    delta, base = _memory()
    inputs = _inputs(20)
    leaves = [delta, base, *_without(inputs, "q").values()]
    for leaf in leaves:
        leaf.requires_grad_()
    found = form.delta_chunk_write(delta, base, **_without(inputs, "q")).cos().sum()
    expected = form.delta_chunk(delta, base, **inputs)[1].cos().sum()
    for mine, theirs in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        _assert_close(mine, theirs)


def test_one_write_equals_eq_93_by_hand() -> None:
    """hope.md §3.1 row 13: ``M' = M (α I - η k k^T) - η (M k - v) k^T`` in numbers, with a base of zero.

    ``M = [[1, 2], [3, 4]]``, ``k = (1, 0)``, ``v = (5, 6)``, ``η = 1/4``, ``α = 1/2`` give
    ``M' = [[.5, 1], [1.5, 2]] - [[.25, 0], [.75, 0]] - [[-1, 0], [-.75, 0]]``.
    """
    k, v = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[5.0, 6.0]]])
    memory = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    base, alpha = torch.zeros(1, 2, 2), torch.full((1, 1), 0.5)
    _, after = delta_step(memory, base, a=-0.5 * k, w=0.25 * v, k=k, alpha=alpha, q=k)
    assert after.tolist() == [[[[1.25, 1.0], [1.5, 2.0]]]]


def test_retention_reaches_what_was_learned_alone() -> None:
    """The base never fades: decay is toward the initial memory."""
    delta, base = _memory()
    zero, alpha = torch.zeros(B, H, K, dtype=torch.float64), torch.full((B, H), 0.25, dtype=torch.float64)
    q = _inputs(1)["q"][:, :, 0]
    _, after = delta_step(delta, base, a=zero, w=zero.new_zeros(B, H, V), k=zero, alpha=alpha, q=q)
    _assert_close(after, 0.25 * delta)


def test_the_gradient_part_of_a_write_is_autograds() -> None:
    """With ``a = -η k``, ``w = η v`` a step is one of gradient descent on ``½ ||M k - v||²`` (row 8)."""
    delta, base = _memory()
    k, v = _inputs(1)["k"][:, :, 0], torch.randn(B, H, V, dtype=torch.float64)
    alpha = torch.ones(B, H, dtype=torch.float64)
    _, after = delta_step(delta, base, a=-0.3 * k, w=0.3 * v, k=k, alpha=alpha, q=k)
    learned = delta.clone().requires_grad_()
    recalled = torch.einsum("bhvk,bhk->bhv", base + learned, k)
    (gradient,) = torch.autograd.grad(0.5 * (recalled - v).square().sum(), learned)
    _assert_close(after, delta - 0.3 * gradient)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_a_repeated_pair_contracts_to_half_its_value(rate: float) -> None:
    """§2.1: eq 93 erases twice, so ``M k -> v / 2``, its distance shrinking by ``1 - 2 η`` a write."""
    delta, base = _memory()
    k, v = _inputs(1)["k"][:, :, 0], torch.randn(B, H, V, dtype=torch.float64)
    alpha = torch.ones(B, H, dtype=torch.float64)
    start = torch.einsum("bhvk,bhk->bhv", base + delta, k)
    for _ in range(3):
        _, delta = delta_step(delta, base, a=-2 * rate * k, w=rate * v, k=k, alpha=alpha, q=k)
    recalled = torch.einsum("bhvk,bhk->bhv", base + delta, k)
    _assert_close(recalled, v / 2 + (1 - 2 * rate) ** 3 * (start - v / 2))


@pytest.mark.parametrize("broken", ["a", "w", "k", "q", "log_alpha", "delta"])
def test_a_row_of_nan_leaves_its_neighbours_bit_identical(form: ModuleType, broken: str) -> None:
    delta, base = _memory(rows=3)
    leaves = {"delta": delta, **_inputs(20, rows=3)}
    whole = form.delta_chunk(base=base, **leaves)
    leaves[broken] = leaves[broken].index_fill(0, torch.tensor([1]), float("nan"))
    read, after = form.delta_chunk(base=base, **leaves)
    assert bool(read[1].isnan().any())
    assert torch.equal(read[[0, 2]], whole[0][[0, 2]])
    assert torch.equal(after[[0, 2]], whole[1][[0, 2]])


def test_a_row_of_nan_leaves_its_neighbours_bit_identical_in_a_step() -> None:
    delta, base = _memory(rows=3)
    inputs = _inputs(4, rows=3)
    whole = _steps(delta, base, inputs)
    read, after = _steps(delta.index_fill(0, torch.tensor([1]), float("nan")), base, inputs)
    assert bool(read[1].isnan().all())
    assert torch.equal(read[[0, 2]], whole[0][[0, 2]])
    assert torch.equal(after[[0, 2]], whole[1][[0, 2]])


def test_inputs_are_not_written(form: ModuleType) -> None:
    leaves = {**dict(zip(("delta", "base"), _memory(), strict=True)), **_inputs(9)}
    before = {name: x.clone() for name, x in leaves.items()}
    form.delta_chunk(**leaves)
    form.delta_chunk_write(**_without(leaves, "q"))
    _steps(leaves["delta"], leaves["base"], _without(leaves, "delta", "base"))
    assert all(torch.equal(leaves[name], x) for name, x in before.items())
