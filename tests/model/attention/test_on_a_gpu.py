"""Hope-Attention on a GPU that is not there: a token's bits depend neither on the cut of its run nor on its
company, by the shapes of the calls alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from tests.model.attention.tiny import (
    PERIOD,
    VOCAB,
    Sessions,
    config,
    deltas_of,
    random_weights,
    text,
    writes_of,
)
from tests.model.small import assert_identical
from tests.pretend_gpu import GPU, pretend_gpu
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.fixed_calls import CALL_ROWS, in_fixed_calls
from hope_kernels.packed_linear import PackedLinear
from hope_model.attention import together
from hope_model.attention.compiled_tangent import tangents_of
from hope_model.attention.model import HopeAttention
from hope_model.attention.repeatable import unrepeatable_products
from hope_model.attention.tangent import Question, Tangent


@pytest.fixture
def model() -> Iterator[HopeAttention]:
    with pretend_gpu(), torch.inference_mode(False):
        yield HopeAttention(config(), random_weights(config()), device=GPU)


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (2, 32, 5), (65, 5), (1, 200, 5)], ids=str)
def test_products_come_in_calls_of_one_shape(shape: tuple[int, ...]) -> None:
    calls: list[torch.Size] = []
    weight, x = torch.randn(7, 5), torch.randn(shape)

    def product(rows: Tensor) -> Tensor:
        calls.append(rows.shape)
        return F.linear(rows, weight)

    found = in_fixed_calls(product, x)
    assert torch.allclose(found, F.linear(x, weight), atol=1e-5)
    assert set(calls) == {(CALL_ROWS, 5)}
    assert len(calls) == -(-x[..., 0].numel() // CALL_ROWS)


@pytest.mark.parametrize("rows", [1, 33, 64, 65])
def test_weights_on_a_gpu_are_read_so(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    plain = F.linear

    def noted(x: Tensor, *rest: Tensor) -> Tensor:
        calls.append(len(x))
        return plain(x, *rest)

    monkeypatch.setattr(F, "linear", noted)
    with pretend_gpu():
        linear = PackedLinear(torch.randn(7, 5, device="cuda"), torch.randn(7, device="cuda"))
        assert linear(torch.randn(rows, 5, device="cuda")).shape == (rows, 7)
    assert set(calls) == {CALL_ROWS}


def test_a_gradient_passes_them() -> None:
    with pretend_gpu():
        linear = PackedLinear(torch.randn(7, 5, device="cuda"))
        x = torch.randn(70, 5, device="cuda", requires_grad=True)
        (found,) = torch.autograd.grad(linear(x).square().sum(), [x])
        (expected,) = torch.autograd.grad((x @ linear.weight.mT).square().sum(), [x])
        assert torch.allclose(found, expected, atol=1e-4)


def test_no_product_knows_its_company(model: HopeAttention) -> None:
    assert unrepeatable_products(model) == []


def test_bits_depend_neither_on_the_cut_nor_on_company(model: HopeAttention) -> None:
    """Runs beside tokens one by one, each session alone beside both in one step, past writes."""
    texts = [text(2 * PERIOD + 10).with_origins("user"), text(2 * PERIOD + 10, seed=1).with_origins("user")]
    together, runs = Sessions(model, *texts), [Sessions(model, own) for own in texts]
    while together.left(0):
        together.decode([0, 1])
    for row, alone in enumerate(runs):
        alone.read(0, 20)
        alone.read(0, alone.left(0), settle=True)
        assert torch.equal(alone.logits[0], together.logits[row])
        assert any(bool(delta.any()) for delta in deltas_of(alone.rows.state(0)).values())
        assert_identical(alone.rows.state(0), together.rows.state(row))


def test_each_write_asks_alone(model: HopeAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward pass that sessions share would sum in an order that depends on them."""
    asked: list[int] = []

    def noted(of: HopeAttention, questions: Sequence[Question]) -> list[Tangent]:
        asked.append(len(questions))
        return tangents_of(of, questions)

    monkeypatch.setattr(together, "tangents_of", noted)
    texts = [text(PERIOD, seed).with_origins("user") for seed in range(2)]
    sessions = Sessions(model, *texts)
    for row in range(2):
        sessions.read(row, PERIOD)
    while any(map(sessions.rows.slices, range(2))):
        sessions.rows.work([0, 1])
    assert len(asked) > 2
    assert set(asked) == {1}


def test_a_decode_step_waits_for_nothing(model: HopeAttention) -> None:
    """Counters are the host's: whoever decides by them does not ask the device."""
    sessions = Sessions(model, text(9), text(9, seed=1))
    with pretend_gpu() as gpu:
        logits = sessions.rows.decode([0, 1], [3, VOCAB - 1])
        assert writes_of(sessions.rows, 0) == ((0,), (0,))
        assert sessions.rows.counters([1])[0][2:] == (0, 0)
    assert logits.device == GPU
    assert gpu.reads == 0
