"""The linear map with frozen weights against its reference; and that a row never knows its neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hope_kernels import row_invariance
from hope_kernels.low_rank_read import low_rank_product
from hope_kernels.packed_linear import PackedLinear
from hope_kernels.packed_linear.packed import can_pack
from hope_kernels.packed_linear.reference import linear
from hope_kernels.row_invariance import linear_holds, product_holds

ROWS = [1, 3, 63, 100]
SIZES = [(20, 33), (64, 48), (1030, 7)]
"""Columns and rows of the weight; beyond 1024 columns kernels sum in parts."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8}
"""Relative error. Sums are in fp32 with both types; bf16 keeps 8 bits of the result."""
BOTH = pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])


def normal(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(dtype)


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found.float(), expected, rtol=TOLERANCE[found.dtype], atol=1e-4)


@BOTH
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(("columns", "outputs"), SIZES)
@pytest.mark.parametrize("rows", ROWS)
def test_it_equals_its_reference(
    rows: int, columns: int, outputs: int, biased: bool, dtype: torch.dtype
) -> None:
    x, weight = normal(rows, columns, dtype=dtype), normal(outputs, columns, dtype=dtype)
    bias = normal(outputs, dtype=dtype) if biased else None
    found = PackedLinear(weight, bias)(x)
    assert found.dtype is dtype
    close(found, linear(x, weight, bias))


@BOTH
def test_any_axes_may_lead(dtype: torch.dtype) -> None:
    x, weight = normal(2, 3, 40, dtype=dtype), normal(9, 40, dtype=dtype)
    packed = PackedLinear(weight)
    assert torch.equal(packed(x).view(6, 9), packed(x.view(6, 40)))
    strided = torch.stack((x, x + 1))[:, :, ::2].mT.contiguous().mT
    close(packed(strided), linear(strided, weight))


@pytest.mark.parametrize("columns", [20, 1030])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_a_row_that_is_alone_keeps_its_axes(shape: tuple[int, ...], columns: int) -> None:
    x, weight = normal(*shape, columns, dtype=torch.bfloat16), normal(5, columns, dtype=torch.bfloat16)
    close(PackedLinear(weight)(x), linear(x, weight))


@BOTH
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("rows", ROWS)
def test_the_gradient_of_its_input(rows: int, biased: bool, dtype: torch.dtype) -> None:
    x, weight = normal(rows, 24, dtype=dtype).requires_grad_(), normal(1030, 24, dtype=dtype)
    bias = normal(1030, dtype=dtype) if biased else None
    slope = normal(rows, 1030, dtype=dtype)
    y = PackedLinear(weight, bias, backward=True)(x)
    close(y.detach(), linear(x.detach(), weight, bias))
    (found,) = torch.autograd.grad(y, x, slope)
    plain = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(linear(plain, weight, bias), plain, slope.float())
    assert found.dtype is dtype
    close(found, expected)


def test_a_gradient_needs_a_transpose() -> None:
    packed = PackedLinear(normal(8, 8, dtype=torch.bfloat16))
    x = normal(2, 8, dtype=torch.bfloat16).requires_grad_()
    with pytest.raises(RuntimeError, match="transpose"):
        packed(x)
    with torch.no_grad():
        assert torch.equal(packed(x), packed(x.detach()))


@BOTH
@pytest.mark.parametrize(("columns", "outputs"), SIZES)
def test_the_weight_comes_back_as_it_was(columns: int, outputs: int, dtype: torch.dtype) -> None:
    weight, bias = normal(outputs, columns, dtype=dtype), normal(outputs, dtype=dtype)
    packed = PackedLinear(weight, bias, backward=True)
    assert torch.equal(packed.weight, weight)
    assert packed.bias is bias
    assert (packed.rows, packed.columns) == (outputs, columns)


@BOTH
@pytest.mark.parametrize("columns", [24, 1030])
def test_nan_in_one_row_leaves_the_others_alone(columns: int, dtype: torch.dtype) -> None:
    x, packed = normal(5, columns, dtype=dtype), PackedLinear(normal(33, columns, dtype=dtype))
    expected = packed(x)
    x[2, 1] = float("nan")
    found = packed(x)
    assert bool(found[2].isnan().all())
    others = [0, 1, 3, 4]
    assert torch.equal(found[others], expected[others])


def test_this_machine_packs_bf16() -> None:
    """Where it does not, the properties below were never measured."""
    assert can_pack(torch.zeros(1, dtype=torch.bfloat16))
    assert not can_pack(torch.zeros(1))


@pytest.mark.parametrize(
    ("columns", "rows"), [(32, 80), (20, 33), (576, 960), (1030, 40), (1536, 576)], ids=str
)
def test_row_invariance(columns: int, rows: int) -> None:
    """A row has the same bits alone and in company: at odd sizes, and at those of SmolLM2's projections."""
    assert linear_holds(columns, rows), "this machine's bf16 kernels cannot replay a session bit for bit"


@pytest.mark.parametrize(("columns", "rows"), [(2, 32), (3, 50), (32, 576)], ids=str)
def test_row_invariance_of_a_product_with_deltas(columns: int, rows: int) -> None:
    assert product_holds(columns, rows), "this machine's bf16 kernels cannot replay a session bit for bit"


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "tokens"])
def test_that_of_a_product_with_deltas_is_measured(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(coordinates: Tensor, deltas: Tensor) -> Tensor:
        return low_rank_product(coordinates, deltas) + (coordinates.shape[axis] == 1)

    monkeypatch.setattr(row_invariance, "low_rank_product", mixed)
    assert not product_holds(3, 50)


def test_row_invariance_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check says no where a row does depend on its company."""

    def mixed(self: PackedLinear, x: Tensor) -> Tensor:
        return linear(x, self.weight) + (x.shape[-2] == 7)

    monkeypatch.setattr(PackedLinear, "__call__", mixed)
    assert not linear_holds(20, 8)


@pytest.mark.parametrize("columns", [16, 20, 32, 40, 48, 64, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_few_columns_are_summed_alone_as_in_company(columns: int, dtype: torch.dtype) -> None:
    """With AMX one result in 30,000 differs, which is enough to tell two sessions apart."""
    packed = PackedLinear(normal(256, columns, dtype=dtype), single=True)
    x = normal(400, columns, dtype=dtype)
    together = packed(x)
    for size in (1, 2, 7):
        parts = torch.cat([packed(part) for part in x.split(size)])
        assert torch.equal(parts, together), size


def test_a_weight_of_few_columns_comes_back_as_it_was() -> None:
    weight = normal(5, 20, dtype=torch.bfloat16)
    assert torch.equal(PackedLinear(weight).weight, weight)
    assert torch.equal(PackedLinear(weight.float(), single=True).weight, weight.float())
