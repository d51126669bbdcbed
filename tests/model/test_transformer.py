"""The reference Transformer: causal, SDPA with the right mask, rotary positions, matched sizes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_model.errors import ConfigError
from hope_model.train.transformer import (
    Attention,
    Transformer,
    TransformerConfig,
    matched_to,
    rotary_table,
    rotate,
)

SMALL = TransformerConfig(vocab_size=61, width=24, layers=2, heads=3, mlp_width=32)


def _model() -> Transformer:
    torch.manual_seed(3)
    return Transformer(SMALL).double()


@pytest.mark.parametrize("length", [1, 7, 33])
def test_logits_depend_only_on_the_past(length: int) -> None:
    model = _model()
    tokens = torch.randint(61, (2, length + 5))
    changed = tokens.clone()
    changed[:, length:] = (changed[:, length:] + 1) % 61
    before, after = model(tokens), model(changed)
    assert before.shape == (2, length + 5, 61)
    torch.testing.assert_close(before[:, :length], after[:, :length], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(before[:, length:], after[:, length:])


def test_a_prefix_alone_gives_the_same_logits() -> None:
    model = _model()
    tokens = torch.randint(61, (3, 20))
    torch.testing.assert_close(model(tokens[:, :9]), model(tokens)[:, :9], rtol=1e-12, atol=1e-12)


def test_rows_do_not_mix() -> None:
    model = _model()
    tokens = torch.randint(61, (3, 11))
    torch.testing.assert_close(model(tokens[1:2]), model(tokens)[1:2], rtol=1e-12, atol=1e-12)


def test_attention_equals_a_softmax_written_out() -> None:
    torch.manual_seed(0)
    attention = Attention(24, 3).double()
    x = torch.randn(2, 13, 24, dtype=torch.float64)
    rotation = rotary_table(13, 8, x)
    q, k, v = (part.view(2, 13, 3, 8).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    scores = rotate(q, rotation) @ rotate(k, rotation).mT / math.sqrt(8)
    scores = scores.masked_fill(torch.ones(13, 13, dtype=torch.bool).triu(1), -math.inf)
    expected = attention.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 13, 24))
    torch.testing.assert_close(attention(x, rotation), expected, rtol=1e-10, atol=1e-12)


def test_rotated_products_depend_on_the_distance_only() -> None:
    q, k = torch.randn(2, 1, 8, dtype=torch.float64).unbind()
    turned_q, turned_k = (
        rotate(q.expand(20, 8), rotary_table(20, 8, q)),
        rotate(k.expand(20, 8), rotary_table(20, 8, k)),
    )
    products = turned_q @ turned_k.T
    torch.testing.assert_close(products[5:, 5:], products[:-5, :-5], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(products[0, 0], products[0, 9])


def test_the_count_of_parameters_is_that_of_the_model() -> None:
    assert SMALL.parameters == sum(weight.numel() for weight in _model().parameters())


@settings(deadline=None)
@given(st.integers(2_200_000, 50_000_000), st.integers(1, 8))
def test_a_matched_config_is_within_one_percent(parameters: int, layers: int) -> None:
    try:
        config = matched_to(parameters, layers=layers, width=256, heads=4, vocab_size=8192)
    except ConfigError:
        smallest = TransformerConfig(8192, 256, layers, 4, mlp_width=1)
        assert smallest.parameters > 0.98 * parameters
    else:
        assert abs(config.parameters - parameters) <= 0.01 * parameters
        assert (config.layers, config.width) == (layers, 256)


def test_a_count_below_the_smallest_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="fit 1000 parameters"):
        matched_to(1000, layers=4, width=256, heads=4, vocab_size=8192)


@pytest.mark.parametrize("sizes", [(61, 24, 2, 5, 32), (61, 24, 0, 3, 32), (61, 27, 2, 9, 32)])
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(ConfigError, match="transformer: expected"):
        TransformerConfig(*sizes)


def test_it_learns_a_repeated_sequence() -> None:
    torch.manual_seed(1)
    model = Transformer(SMALL)
    tokens = torch.randint(61, (4, 17))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert loss.item() < 0.5
