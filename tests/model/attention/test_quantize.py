"""A model whose slow weights are quantised: another model, whose sessions are as exact as any."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import torch
from tests.model.attention.tiny import (
    BLOCK,
    DELAY,
    PERIOD,
    Sessions,
    alone,
    backbone_config,
    config,
    deltas_of,
    random_weights,
    text,
)
from tests.model.small import assert_identical
from torch import Tensor

from hope_kernels.frozen_linear import FrozenLinear
from hope_kernels.quantized_linear import Bits, Int4Linear, Int8Linear
from hope_model.attention import quantize as quantizing
from hope_model.attention.checkpoint import attention_weights_sha256
from hope_model.attention.config import HopeAttentionConfig
from hope_model.attention.model import HopeAttention
from hope_model.attention.quantize import KINDS, bits_of
from hope_model.attention.repeatable import unrepeatable_products
from hope_model.errors import QuantizeError

BOTH = pytest.mark.parametrize("bits", get_args(Bits))
LENGTH = BLOCK + DELAY + 30


def whole_groups() -> HopeAttentionConfig:
    return replace(config(), backbone=backbone_config(head_width=16, mlp_width=96))


def built(bits: Bits | None, config: HopeAttentionConfig | None = None) -> HopeAttention:
    config = config or whole_groups()
    with torch.inference_mode(False):
        return HopeAttention(config, random_weights(config), quantize=bits)


@cache
def model(bits: Bits | None) -> HopeAttention:
    return built(bits)


@BOTH
def test_every_product_is_quantised_and_nothing_else(bits: Bits) -> None:
    plain, own = dict(model(None).frozen()), dict(model(bits).frozen())
    products = {"head"} | {f"{n}.{name}" for n in range(3) for name in ("qkv", "output", "gate_up", "down")}
    assert plain.keys() - own.keys() == products
    body = {f"{name}.{bits}" for name in products - {"head"}}
    assert own.keys() - plain.keys() == body | {"head.int8"}
    for name in plain.keys() & own.keys():
        assert torch.equal(plain[name], own[name]), name
    assert model(bits).backbone.bytes_read < 0.65 * model(None).backbone.bytes_read


@BOTH
def test_it_computes_with_what_its_weights_became(bits: Bits) -> None:
    """As a model of these weights, up to the rounding of bf16."""
    it, weights = model(bits), random_weights(whole_groups())
    for name, tensor in it.backbone.frozen():
        number, _, rest = name.partition(".")
        for part, block, names in (
            ("qkv", "self_attn", ("q_proj", "k_proj", "v_proj")),
            ("output", "self_attn", ("o_proj",)),
            ("gate_up", "mlp", ("gate_proj", "up_proj")),
            ("down", "mlp", ("down_proj",)),
        ):
            if rest == f"{part}.{bits}":
                keys = [f"model.layers.{number}.{block}.{key}.weight" for key in names]
                sizes = [len(weights[key]) for key in keys]
                weights |= zip(keys, tensor.split(sizes), strict=True)
    with torch.inference_mode(False):
        same = HopeAttention(whole_groups(), weights)
    tokens = torch.tensor([text(40).tokens])
    found, expected, before = (each.forward(tokens).log_softmax(-1) for each in (it, same, model(None)))
    away = float((before - expected).norm())
    assert float((found - expected).norm()) < 0.7 * away


@BOTH
def test_no_bit_depends_on_how_tokens_arrive(bits: Bits) -> None:
    """Blocks and steps, worked off early and late: boundaries, what was learned and answers are one."""
    expected = alone(model(bits), text(LENGTH))
    other = Sessions(model(bits), text(LENGTH), text(LENGTH - 41, 1))
    other.read(0, 23)
    other.read(1, 7)
    while other.left(0):
        rows = [row for row in (0, 1) if other.left(row) and other.origin(row) == other.origin(0)]
        other.decode(rows)
    assert other.boundaries[0].keys() == {BLOCK}
    assert_identical(other.boundaries[0][BLOCK], expected.boundaries[0][BLOCK])
    assert_identical(other.rows.state(0), expected.rows.state(0))
    assert torch.equal(other.logits[0], expected.logits[0])
    deltas = deltas_of(expected.rows.state(0))
    assert all(bool(delta.any()) for delta in deltas.values())


@BOTH
def test_what_it_learns_is_near_what_theta_learns(bits: Bits) -> None:
    """Gradients go through what is read: one period's change points the same way."""
    own, plain = (
        torch.cat(
            [d.flatten() for d in deltas_of(alone(model(b), text(PERIOD + DELAY)).rows.state(0)).values()]
        )
        for b in (bits, None)
    )
    assert float(torch.cosine_similarity(own, plain, dim=0)) > 0.8


def test_each_is_a_model_of_its_own() -> None:
    digests = {attention_weights_sha256(model(bits_of(kind))) for kind in KINDS}
    assert len(digests) == len(KINDS)
    again = {attention_weights_sha256(built(bits_of(kind))) for kind in KINDS}
    assert again == digests


@BOTH
def test_its_products_are_asked_whether_they_repeat(bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unrepeatable_products(model(bits)) == []
    kind = Int8Linear if bits == "int8" else Int4Linear
    product = kind.__call__

    def mixed(self: FrozenLinear, x: Tensor) -> Tensor:
        y = product(self, x)  # type: ignore[arg-type]
        return y + 1 if self is model(bits).backbone.layers[0].down and x.shape[-2] == 7 else y

    monkeypatch.setattr(kind, "__call__", mixed)
    assert unrepeatable_products(model(bits)) == ["down 96x32"]


def refusal(bits: Bits, config: HopeAttentionConfig, **changes: object) -> str:
    weights = random_weights(config)
    with pytest.raises(QuantizeError) as refused:
        HopeAttention(config, weights, quantize=bits, **changes)  # type: ignore[arg-type]
    assert refused.value.code == "quantize_failed"
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 40}, "int4: expected width to be a multiple of 32, found 40"),
        ({"head_width": 10}, "int4: expected heads x head_width to be a multiple of 32, found 40"),
        ({"mlp_width": 44}, "int4: expected mlp_width to be a multiple of 32, found 44"),
    ],
)
def test_a_group_that_does_not_divide_is_refused(changes: dict[str, int], said: str) -> None:
    sizes = {"head_width": 16, "mlp_width": 96, **changes}
    other = replace(config(), backbone=backbone_config(**sizes))
    assert refusal("int4", other) == said
    built("int8", other)


@BOTH
def test_only_bf16_is_quantised(bits: Bits) -> None:
    said = refusal(bits, whole_groups(), dtype=torch.float32)
    assert said == f"{bits}: expected bfloat16 weights on a CPU, found torch.float32 on cpu"


@BOTH
def test_a_machine_without_the_products_is_named(bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizing, "works", lambda kind: kind != bits)
    said = refusal(bits, whole_groups(), compiled=False)
    assert said.startswith(f"{bits}: expected a PyTorch whose products")
    assert torch.__version__ in said


def test_weights_that_are_not_finite_are_refused() -> None:
    weights = random_weights(whole_groups())
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    with pytest.raises(QuantizeError, match="int4: expected finite weights"):
        HopeAttention(whole_groups(), weights, quantize="int4")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(QuantizeError, match="expected one of none, int8, int4, found 'int2'"):
        bits_of("int2")


def test_a_native_model_is_refused() -> None:
    quantizing.require_unquantized(Path("hope-tiny"), None)
    with pytest.raises(QuantizeError, match="expected none for hope-tiny, a native Hope model, found int8"):
        quantizing.require_unquantized(Path("hope-tiny"), "int8")
