"""Weights of bf16 that came in blocks of fewer bits are kept so; every bit, of a product too, is the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gguf_weights import random_in_file
from tests.model.instructions import PLAIN, with_other_instructions
from torch import Tensor

from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.frozen import FrozenWeights

pytestmark = pytest.mark.compiler
KEPT = {Kind.Q4_0: "block4", Kind.Q4_1: "block4", Kind.Q8_0: "block8"}
FILES = pytest.mark.parametrize("file", list(KEPT), ids=lambda file: file.name)
OTHERS = [Kind.Q5_0, Kind.Q5_1, Kind.F16, Kind.BF16]
ONE_MORE_BIT = 1


def packed(weight: Tensor) -> FrozenWeights:
    return FrozenWeights(weight, None, Arena())


def assert_kept(weight: Tensor, kind: str) -> None:
    """As ``kind``, and to the last bit."""
    weights = packed(weight)
    assert weights.kind == kind
    assert same_bits(weights.unpacked(), weight)


def same_bits(found: Tensor, expected: Tensor) -> bool:
    whole = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[expected.dtype]
    return torch.equal(found.view(whole), expected.view(whole))


@FILES
@pytest.mark.parametrize("scale", [1e-2, 1.0, 100.0])
def test_what_came_in_blocks_is_kept_in_blocks(file: Kind, scale: float) -> None:
    assert_kept(random_in_file(file, 150, 320, scale), KEPT[file])


@pytest.mark.parametrize("file", OTHERS, ids=lambda file: file.name)
def test_what_did_not_is_kept_as_it_is(file: Kind) -> None:
    assert_kept(random_in_file(file, 150, 320), "bf16")


@FILES
@pytest.mark.parametrize("rows", [1, 5, 16, 40, 77])
@pytest.mark.parametrize("columns", [32, 576, 1056])
def test_a_product_has_the_bits_of_one_with_whole_weights(file: Kind, rows: int, columns: int) -> None:
    compare_products(file, rows, columns)


@with_other_instructions(PLAIN)
def test_other_instructions_find_and_make_the_same(
    compiled_with: Callable[..., None], flags: tuple[str, ...]
) -> None:
    compiled_with(*flags)
    for file in KEPT:
        assert_kept(random_in_file(file, 150, 320), KEPT[file])
        for rows in (1, 21):
            compare_products(file, rows, 96)


def compare_products(file: Kind, rows: int, columns: int) -> None:
    """Another output, which is in no block, keeps them all in 16 bits."""
    weight = random_in_file(file, 150, columns)
    whole = torch.cat((weight, torch.full((1, columns), -0.0, dtype=torch.bfloat16)))
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).bfloat16()
    in_blocks, plain = packed(weight), packed(whole)
    assert (in_blocks.kind, plain.kind) == (KEPT[file], "bf16")
    assert same_bits(in_blocks.product(x), plain.product(x)[:, :150].contiguous())
    gain = torch.linspace(0.5, 2, columns)
    normed = [weights.normed_product(x.float(), gain, 1e-5) for weights in (in_blocks, plain)]
    assert same_bits(normed[0], normed[1][:, :150].contiguous())


@FILES
@pytest.mark.parametrize("place", [0, 149 * 320 + 319])
def test_one_weight_that_no_block_makes_keeps_all_in_16_bits(file: Kind, place: int) -> None:
    """The least of what bf16 can say of it, wherever it stands; and then none of its bits is lost."""
    weight = random_in_file(file, 150, 320)
    block = weight.view(-1, 32)[place // 32]
    bits = weight.view(torch.int16).view(-1)
    bits[place] ^= ONE_MORE_BIT
    assert not bool((block == block[0]).all())
    assert_kept(weight, "bf16")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, 1e-30])
def test_what_no_half_can_say_is_kept_as_it_is(value: float) -> None:
    weight = random_in_file(Kind.Q4_1, 16, 32)
    weight[3, 7] = value
    assert_kept(weight, "bf16")


def test_zeros_and_constants_are_blocks_too() -> None:
    weight = torch.zeros(20, 64, dtype=torch.bfloat16)
    weight[3], weight[4] = 0.75, -2.0
    assert_kept(weight, "block4")


@settings(max_examples=100, deadline=None)
@given(
    scale=st.floats(2**-14, 100, width=16),
    zero=st.floats(-100, 100, width=16).filter(lambda zero: zero == 0 or abs(zero) >= 2**-14),
    numbers=st.lists(st.integers(0, 15), min_size=30, max_size=30),
)
def test_any_block_of_4_bits_is_found(scale: float, zero: float, numbers: list[int]) -> None:
    whole = torch.tensor([[0, *numbers, 15]], dtype=torch.float32)
    weight = (whole * scale + abs(zero) * (-1 if zero < 0 else 1)).bfloat16()
    assert_kept(weight, "block4")


@settings(max_examples=100, deadline=None)
@given(
    scale=st.floats(2**-14, 100, width=16),
    numbers=st.lists(st.integers(-127, 127), min_size=31, max_size=31),
    sign=st.sampled_from([-1, 1]),
)
def test_any_block_of_8_bits_is_found(scale: float, numbers: list[int], sign: int) -> None:
    weight = (torch.tensor([[*numbers, sign * 127]], dtype=torch.float32) * scale).bfloat16()
    weights = packed(weight)
    assert weights.kind in ("block4", "block8")
    assert same_bits(weights.unpacked(), weight)
