"""A model that came in blocks of 4 bits reads and learns with the same bits as without, from fewer bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tests.gguf_weights import in_file
from tests.model.attention.tiny import (
    BLOCK,
    Sessions,
    backbone_config,
    config,
    deltas_of,
    random_weights,
    text,
    writes_of,
)
from tests.model.small import assert_identical
from torch import Tensor

from hope_kernels.cpu import frozen
from hope_model.attention.checkpoint import attention_weights_sha256
from hope_model.attention.compiled import products_of
from hope_model.attention.model import HopeAttention

pytestmark = pytest.mark.compiler
CONFIG = replace(config(), backbone=backbone_config(head_width=16, mlp_width=64))
"""All products have whole groups of 32 inputs, and those of gates whole tiles."""


def model_in_blocks() -> HopeAttention:
    weights = random_weights(CONFIG)
    for name, tensor in weights.items():
        if tensor.dim() == 2 and not name.startswith("memory."):
            kind = Kind.Q8_0 if "embed" in name else Kind.Q4_1
            weights[name] = in_file(tensor, kind)
    with torch.inference_mode(False):
        return HopeAttention(CONFIG, {name: tensor.clone() for name, tensor in weights.items()})


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> tuple[HopeAttention, HopeAttention]:
    """In blocks, and in 16 bits."""
    in_blocks = model_in_blocks()
    with monkeypatch.context() as patch:
        patch.setattr(frozen, "_blocks", lambda _library, weight: weight)
        return in_blocks, model_in_blocks()


def kinds_of(model: HopeAttention) -> set[str]:
    linears = [linear for layer in model.backbone.layers for linear in products_of(layer).values()]
    return {linear.compiled.kind for linear in linears if linear.compiled is not None}


def test_products_are_kept_in_blocks_and_the_digest_is_the_same(
    models: tuple[HopeAttention, HopeAttention],
) -> None:
    own, plain = models
    heads = [model.backbone.head.compiled for model in models]
    assert [head.kind for head in heads if head is not None] == ["block8", "bf16"]
    assert [kinds_of(model) for model in models] == [{"block4"}, {"bf16"}]
    assert attention_weights_sha256(own) == attention_weights_sha256(plain)
    assert own.backbone.bytes_read < 0.4 * plain.backbone.bytes_read


def test_it_reads_and_learns_with_the_same_bits(models: tuple[HopeAttention, HopeAttention]) -> None:
    """Runs and steps of several rows, writes, and the window that is encoded anew."""
    found: list[tuple[list[Tensor], Sessions]] = []
    for model in models:
        assert model.passes is not None
        sessions = Sessions(model, text(2 * BLOCK + 40), text(2 * BLOCK + 40, 1))
        for row in (0, 1):
            sessions.read(row, BLOCK)
        for _ in range(15):
            sessions.decode([0, 1])
        for row in (0, 1):
            sessions.read(row, sessions.left(row))
        found.append((sessions.logits, sessions))
    (logits, own), (expected, plain) = found
    for row in (0, 1):
        assert torch.equal(logits[row], expected[row])
        assert_identical(own.rows.state(row), plain.rows.state(row))
        assert any(bool(delta.any()) for delta in deltas_of(own.rows.state(row)).values())
        assert writes_of(own.rows, row) == writes_of(plain.rows, row)
