"""Attention over a window against its reference, torch's own, and itself in other company."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels import row_invariance
from hope_kernels.row_invariance import attention_holds, served_attention_holds
from hope_kernels.window_attention import window_attention
from hope_kernels.window_attention.reference import window_attention as reference
from hope_kernels.window_attention.several import several_attention

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Absolute error of averages of normal values; bf16 rounds scores and weights to 8 bits."""
BOTH = pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])


@dataclass
class Case:
    queries: Tensor
    keys: Tensor
    values: Tensor
    bias: Tensor

    def attend(self) -> Tensor:
        return window_attention(self.queries, self.keys, self.values, self.bias)


def case(
    tokens: int, span: int, dtype: torch.dtype, *, heads: int = 4, groups: int = 2, rows: int = 2
) -> Case:
    """Every query sees some positions at random, and its own at least."""
    seen = torch.rand(rows, tokens, span) < 0.6
    seen[:, torch.arange(tokens), torch.arange(tokens) % span] = True
    return Case(
        (torch.randn(rows, heads, tokens, 10) * 10**-0.5).to(dtype),
        torch.randn(rows, groups, span, 10).to(dtype),
        torch.randn(rows, groups, span, 10).to(dtype),
        torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf),
    )


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=TOLERANCE[found.dtype])


@BOTH
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("span", [1, 3, 63, 100])
@pytest.mark.parametrize("tokens", [1, 3, 63, 100])
def test_it_equals_its_reference(tokens: int, span: int, heads: int, groups: int, dtype: torch.dtype) -> None:
    it = case(tokens, span, dtype, heads=heads, groups=groups)
    found = it.attend()
    assert found.dtype is dtype
    close(found, reference(it.queries, it.keys, it.values, it.bias))


def test_it_equals_torchs_own() -> None:
    it = case(7, 20, torch.float32, heads=6, groups=2)
    expected = F.scaled_dot_product_attention(
        it.queries, it.keys, it.values, it.bias[:, None], scale=1.0, enable_gqa=True
    )
    close(it.attend(), expected)
    close(reference(it.queries, it.keys, it.values, it.bias), expected)


@BOTH
def test_one_bias_serves_all_rows(dtype: torch.dtype) -> None:
    it = case(5, 9, dtype)
    it.bias = it.bias[:1]
    found = it.attend()
    it.bias = it.bias.expand(2, -1, -1)
    assert torch.equal(found, it.attend())


@BOTH
def test_keys_may_be_views(dtype: torch.dtype) -> None:
    """Of some rows of a cache, up to a span; as they are given for a text without a cache."""
    it = case(5, 9, dtype)
    expected = it.attend()
    keys, values = (torch.full((4, 2, 13, 10), float("nan"), dtype=dtype) for _ in range(2))
    keys[1:3, :, :9], values[1:3, :, :9] = it.keys, it.values
    it.keys, it.values = keys[1:3, :, :9], values[1:3, :, :9]
    close(it.attend(), expected.float())
    it.keys, it.values, it.queries = (
        x.transpose(1, 2).contiguous().transpose(1, 2) for x in (it.keys, it.values, it.queries)
    )
    close(it.attend(), expected.float())


@BOTH
def test_what_is_masked_does_not_matter(dtype: torch.dtype) -> None:
    it = case(6, 20, dtype)
    it.bias[:, :, 4] = it.bias[:, :, 17:] = -torch.inf
    expected = it.attend()
    it.keys[:, :, 4], it.values[:, :, 4] = 1000, -1000
    it.keys[:, :, 17:], it.values[:, :, 17:] = -1000, 1000
    assert torch.equal(it.attend(), expected)


@BOTH
def test_a_key_in_sight_matters(dtype: torch.dtype) -> None:
    it = case(6, 20, dtype)
    before = it.attend()
    it.values[:, :, 5] += 8
    changed = (it.attend() != before).flatten(3).any(3).any(1)
    assert torch.equal(changed, it.bias[:, :, 5] == 0)


@BOTH
@pytest.mark.parametrize("part", ["queries", "keys", "values"])
def test_nan_in_one_row_leaves_the_others_alone(part: str, dtype: torch.dtype) -> None:
    it = case(6, 20, dtype, rows=3)
    expected = it.attend()
    getattr(it, part)[1] = float("nan")
    found = it.attend()
    assert bool(found[1].isnan().all())
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(
    ("heads", "groups", "width", "span"), [(4, 2, 8, 229), (9, 3, 64, 448), (2, 1, 10, 101)], ids=str
)
def test_row_invariance(heads: int, groups: int, width: int, span: int) -> None:
    """A query has the same bits alone and in company: at odd sizes, and at those of SmolLM2."""
    assert attention_holds(heads, groups, width, span), (
        "this machine's bf16 kernels cannot replay a session bit for bit"
    )


@pytest.mark.parametrize(
    "knows",
    [
        lambda queries, keys: keys.shape[2] < 128,
        lambda queries, keys: queries.shape[2] == 7,
        lambda queries, keys: len(queries) == 1,
    ],
    ids=["masked", "tokens", "rows"],
)
def test_row_invariance_is_measured(
    knows: Callable[[Tensor, Tensor], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both checks say no where a query does depend on what is masked, or on who shares the call."""

    def mixed(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return window_attention(queries, keys, values, bias) + knows(queries, keys)

    assert served_attention_holds(2, 1, 8, [64, 128])
    monkeypatch.setattr(row_invariance, "window_attention", mixed)
    assert not attention_holds(2, 1, 8, 128)
    assert not served_attention_holds(2, 1, 8, [64, 128])


@BOTH
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2)], ids=str)
@pytest.mark.parametrize(("tokens", "span"), [(1, 1), (3, 63), (63, 100)], ids=str)
def test_several_tokens_through_torchs_own_attention(
    tokens: int, span: int, heads: int, groups: int, dtype: torch.dtype
) -> None:
    """The form that runs on a GPU when several tokens are read."""
    it = case(tokens, span, dtype, heads=heads, groups=groups)
    found = several_attention(it.queries, it.keys, it.values, it.bias)
    assert found.dtype is dtype
    close(found, reference(it.queries, it.keys, it.values, it.bias))


@BOTH
@pytest.mark.parametrize("tokens", [1, 5])
def test_rows_of_a_cache_by_slot(tokens: int, dtype: torch.dtype) -> None:
    it, slots = case(tokens, 63, dtype, rows=3), torch.tensor([2, 0, 1])
    expected = window_attention(it.queries, it.keys[slots], it.values[slots], it.bias)
    assert torch.equal(window_attention(it.queries, it.keys, it.values, it.bias, slots), expected)
