"""The compiled kernel's products against plain ones in fp32; and that a row never knows its neighbours."""

from __future__ import annotations

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tests.gguf_weights import random_in_file
from torch import Tensor

from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.frozen import FrozenWeights, Whole
from hope_kernels.quantized_linear.reference import MIDDLE_INT4, Quantized

pytestmark = pytest.mark.compiler
FILES = {"block8": Kind.Q8_0, "block4": Kind.Q4_1}
KINDS = pytest.mark.parametrize("kind", ["bf16", "int8", "int4", "block8", "block4"])
ROWS = [1, 3, 16, 33, 100]
SIZES = [(32, 1), (96, 150), (160, 64), (1056, 20)]
"""Columns and rows of the weight: parts of registers, of tiles, of pieces."""
ODD = [(1, 5), (27, 33), (44, 16)]
"""Those that are no whole groups of 32."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def make(
    kind: str, outputs: int, columns: int, *, biased: bool = False
) -> tuple[FrozenWeights, Tensor, Tensor]:
    """Packed weights, what they stand for in fp32, and the bias."""
    weight = normal(outputs, columns, seed=1)
    bias = normal(outputs, seed=2) if biased else torch.zeros(outputs)
    if kind in FILES:
        weight = random_in_file(FILES[kind], outputs, columns, scale=1.0)
    if kind not in ("int8", "int4"):
        return FrozenWeights(weight, bias, Arena()), weight.float(), bias.float()
    if kind == "int8":
        quantized = Quantized.int8(weight)
        whole = Whole(quantized.values, quantized.scales[:, 0])
    else:
        quantized = Quantized.int4(weight, 32)
        whole = Whole(quantized.values + MIDDLE_INT4, quantized.scales, quantized.zeros)
    return FrozenWeights(whole, bias, Arena()), quantized.weight(), bias.float()


def near(found: Tensor, expected: Tensor) -> None:
    """fp32 sums in two orders."""
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()) + 1e-6)


@KINDS
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(("columns", "outputs"), SIZES)
@pytest.mark.parametrize("rows", ROWS)
def test_it_equals_a_plain_product(rows: int, columns: int, outputs: int, biased: bool, kind: str) -> None:
    weights, plain, bias = make(kind, outputs, columns, biased=biased)
    x = normal(rows, columns)
    near(weights.product(x), x.float() @ plain.mT + bias)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize(("columns", "outputs"), ODD)
@pytest.mark.parametrize("rows", [1, 17])
def test_odd_sizes_are_filled_up(rows: int, columns: int, outputs: int, kind: str) -> None:
    weights, plain, _ = make(kind, outputs, columns)
    x = normal(2, rows, columns)
    near(weights.product(x), x.float() @ plain.mT)


@KINDS
@pytest.mark.parametrize("columns", [96, 1056])
def test_a_row_has_the_bits_that_it_has_alone(kind: str, columns: int) -> None:
    """In any company, at any place, with any number of threads; beside one that is not a number."""
    weights, _, _ = make(kind, 150, columns, biased=True)
    torch.set_num_threads(1)
    x = normal(77, columns)
    alone = torch.cat([weights.product(row[None]) for row in x])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for size in (2, 5, 16, 17, 77):
            parts = [weights.product(part) for part in x.split(size)]
            assert torch.equal(torch.cat(parts), alone), (threads, size)
    x[[0, 20]] = torch.nan
    found = weights.product(x)
    assert bool(found[[0, 20]].isnan().all())
    others = [row for row in range(77) if row not in (0, 20)]
    assert torch.equal(found[others], alone[others])


@KINDS
@pytest.mark.parametrize(("columns", "outputs"), SIZES)
def test_what_is_packed_can_be_had_again(columns: int, outputs: int, kind: str) -> None:
    weights, plain, _ = make(kind, outputs, columns)
    if kind == "int8":
        plain = Quantized.int8(normal(outputs, columns, seed=1)).values.float()
    assert torch.equal(weights.unpacked(), plain.bfloat16())


@pytest.mark.parametrize(
    ("kind", "bits"), [("bf16", 16), ("int8", 8), ("int4", 5), ("block8", 8.5), ("block4", 5)]
)
def test_it_reads_as_many_bytes_as_it_says(kind: str, bits: float) -> None:
    """Whole tiles of whole registers, so that nothing fills them up; 8 bits have fp32 scales beside."""
    weights, _, _ = make(kind, 128, 320)
    assert weights.nbytes == 128 * 320 * bits // 8 + (4 * 128 if kind == "int8" else 0)


@KINDS
@pytest.mark.parametrize(("columns", "outputs"), SIZES)
def test_a_product_with_the_norm_is_that_with_the_norm_rounded(kind: str, columns: int, outputs: int) -> None:
    """To what rounding the other way makes of a few operands; a row's bits are its own on any threads."""
    weights, whole, bias = make(kind, outputs, columns, biased=True)
    x, gain = 3 * normal(33, columns, seed=3).float(), normal(columns, seed=4).float()
    operands = torch.nn.functional.rms_norm(x, (columns,), gain, 1e-5).bfloat16()
    expected = operands.float() @ whole.mT + bias
    found = weights.normed_product(x, gain, 1e-5)
    assert float((found - expected).norm() / expected.norm()) < 1e-3
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for start, end in ((0, 1), (3, 19), (0, 33)):
            assert torch.equal(weights.normed_product(x[start:end], gain, 1e-5), found[start:end])
