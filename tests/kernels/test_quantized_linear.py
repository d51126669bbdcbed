"""Products with quantised weights against their reference; and that a row never knows its neighbours."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from hope_kernels.frozen_linear import FrozenLinear
from hope_kernels.packed_linear import PackedLinear
from hope_kernels.quantized_linear import GROUP, Bits, Int4Linear, Int8Linear, support, works
from hope_kernels.quantized_linear.reference import Quantized, linear
from hope_kernels.row_invariance import served_linear_holds

BOTH = pytest.mark.parametrize("bits", get_args(Bits))
ROWS = [1, 3, 63, 100]
SIZES = [(GROUP, 33), (96, 48), (1056, 7)]
"""Columns and rows of the weight."""


def normal(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16()


def make(
    bits: str, weight: Tensor, bias: Tensor | None = None, *, backward: bool = False
) -> tuple[FrozenLinear, Quantized]:
    if bits == "int8":
        return Int8Linear(weight, bias, backward=backward), Quantized.int8(weight)
    return Int4Linear(weight, bias, backward=backward), Quantized.int4(weight, GROUP)


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=2e-3 * float(expected.abs().max()))


@BOTH
def test_this_machine_has_them(bits: Bits) -> None:
    """Where it has not, the properties below were never measured."""
    assert works(bits)


@BOTH
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(("columns", "outputs"), SIZES)
@pytest.mark.parametrize("rows", ROWS)
def test_it_equals_its_reference(rows: int, columns: int, outputs: int, biased: bool, bits: str) -> None:
    x, weight, bias = normal(rows, columns), normal(outputs, columns), normal(outputs) if biased else None
    product, quantized = make(bits, weight, bias)
    found = product(x)
    assert found.dtype is torch.bfloat16
    close(found, linear(x, quantized, bias))


@pytest.mark.parametrize(("bits", "error"), [("int8", 0.01), ("int4", 0.11)])
def test_what_is_quantised_is_near(bits: str, error: float) -> None:
    """Relative to normal weights, for which steps of 1/127 and 1/15 of a range are known to be so far off."""
    weight = normal(64, 960)
    _, quantized = make(bits, weight)
    assert error / 2 < float((quantized.weight() - weight.float()).norm() / weight.float().norm()) < error


def test_int4_keeps_what_comes_from_a_file_of_as_many_bits() -> None:
    """llama.cpp's Q4_1: sixteen steps from the least to the greatest of 32 neighbours."""
    steps = torch.rand(48, 3, 1) + 0.1
    values = torch.randint(16, (48, 3, GROUP))
    values[..., :2] = torch.tensor([0, 15])
    weight = (values * steps - 7.3 * steps).flatten(1).bfloat16()
    found = Quantized.int4(weight, GROUP).weight()
    assert float((found - weight.float()).abs().max()) < 0.06 * float(steps.max())


@BOTH
def test_rows_of_zeros_and_of_one_value(bits: str) -> None:
    weight = torch.zeros(3, 64).bfloat16()
    weight[1] = 0.75
    weight[2, 5] = 3.0
    product, _ = make(bits, weight)
    torch.testing.assert_close(product(torch.eye(64).bfloat16()).mT, weight, rtol=2**-7, atol=0.0)
    assert not product(torch.zeros(2, 64).bfloat16()).any()


@BOTH
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bits: str, bad: float) -> None:
    weight = normal(4, 32)
    weight[1, 7] = bad
    with pytest.raises(ValueError, match="finite"):
        make(bits, weight)


def test_int4_wants_whole_groups() -> None:
    with pytest.raises(ValueError, match=f"expected a multiple of {GROUP} columns, found 40"):
        Int4Linear(normal(8, 40))


@BOTH
def test_the_weight_is_what_the_product_uses(bits: str) -> None:
    weight, bias = normal(33, 64), normal(33)
    product, quantized = make(bits, weight, bias)
    assert torch.equal(product.weight, quantized.weight().bfloat16())
    (name, whole), (bias_name, own) = product.constants()
    assert (name, bias_name) == (f".{bits}", ".bias")
    assert torch.equal(whole, product.weight)
    assert torch.equal(own, bias)
    assert product.nbytes < PackedLinear(weight, bias).nbytes


@BOTH
def test_the_gradient_is_that_of_what_is_read(bits: str) -> None:
    x, weight, bias = normal(5, 96).requires_grad_(), normal(48, 96), normal(48)
    product, quantized = make(bits, weight, bias, backward=True)
    y = product(x)
    assert torch.equal(y, product(x.detach()))
    slope = normal(5, 48)
    (found,) = torch.autograd.grad(y, x, slope)
    close(found, slope.float() @ quantized.weight())


@BOTH
def test_no_gradient_without_a_transpose(bits: str) -> None:
    product, _ = make(bits, normal(16, 32))
    with pytest.raises(RuntimeError, match="without a transpose"):
        product(normal(2, 32).requires_grad_())


@BOTH
def test_any_axes_may_lead(bits: str) -> None:
    product, quantized = make(bits, normal(9, 64))
    x = normal(2, 3, 64)
    assert torch.equal(product(x).view(6, 9), product(x.view(6, 64)))
    strided = torch.stack((x, x + 1))[:, :, ::2].mT.contiguous().mT
    close(product(strided), linear(strided, quantized))
    alone = product(x[0, 0])
    assert torch.equal(alone, product(x)[0, 0])


@BOTH
def test_nan_in_one_row_leaves_the_others_alone(bits: str) -> None:
    x, (product, _) = normal(5, 96), make(bits, normal(33, 96))
    expected = product(x)
    x[2, 1] = float("nan")
    found = product(x)
    assert bool(found[2].isnan().all())
    others = [0, 1, 3, 4]
    assert torch.equal(found[others], expected[others])


@BOTH
@pytest.mark.parametrize(
    ("columns", "rows"), [(32, 80), (64, 33), (576, 960), (1056, 40), (1536, 576)], ids=str
)
def test_row_invariance(columns: int, rows: int, bits: str) -> None:
    """A row has the same bits alone and in company: at odd sizes, and at those of SmolLM2's projections."""
    product, _ = make(bits, normal(rows, columns), normal(rows))
    assert served_linear_holds(product)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_int8_reads_rows_of_any_size(scale: float) -> None:
    """Every whole number of both halves occurs, those included at which the halves meet."""
    weight = torch.eye(2, 32).bfloat16()
    product = Int8Linear(weight)
    x = torch.zeros(65025, 32)
    x[:, 0] = torch.arange(-32512, 32513)
    x[:, 1] = 32512
    found = product._product((x * scale).double().float())[:, 0].float() / scale
    torch.testing.assert_close(found, x[:, 0], rtol=2**-7, atol=0.51)


@BOTH
def test_a_product_that_is_wrong_is_not_taken(bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Int8Linear if bits == "int8" else Int4Linear
    whole = kind.__call__

    def saturated(self: FrozenLinear, x: Tensor) -> Tensor:
        y = whole(self, x)  # type: ignore[arg-type]
        return y.clamp_max(0.5 * float(y.max()))

    monkeypatch.setattr(kind, "__call__", saturated)
    monkeypatch.setattr(support, "works", support.works.__wrapped__)
    assert not support.works(bits)


@BOTH
def test_a_pytorch_without_them(bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_args: object, **_more: object) -> None:
        raise NotImplementedError("no kernel here")

    monkeypatch.setattr(Int8Linear if bits == "int8" else Int4Linear, "__init__", missing)
    assert not support.works.__wrapped__(bits)
