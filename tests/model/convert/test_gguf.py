"""GGUF files: weights come back in Hugging Face's order, dequantised as the library does it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from tests.gguf_weights import in_file
from tests.model.convert.builders import (
    EOS,
    HEAD_WIDTH,
    LAYERS,
    MLP_WIDTH,
    TEMPLATE,
    no_memory,
    random_weights,
    read_checkpoint,
    same,
    tiny_backbone,
    write_gguf,
)

from hope_model.attention.backbone import tensor_shapes
from hope_model.attention.config import BackboneConfig, RopeScaling
from hope_model.convert.convert import convert
from hope_model.convert.gguf_file import GgufFile
from hope_model.convert.gguf_model import GgufSource
from hope_model.convert.progress import silent
from hope_model.errors import ConversionError

BACKBONES = {
    "llama": tiny_backbone(norm_epsilon=1e-5, rope_theta=123456.0),
    "llama-biased": tiny_backbone(tied_head=False, qkv_bias=True, output_bias=True, mlp_bias=True),
    "llama-wide": tiny_backbone(head_width=2 * HEAD_WIDTH),
    "qwen2": tiny_backbone(qkv_bias=True),
    "qwen3": tiny_backbone(qk_norm=True, head_width=2 * HEAD_WIDTH, tied_head=False),
    "smollm3": tiny_backbone(no_rope_layers=(LAYERS - 1,)),
}


@pytest.mark.parametrize("case", BACKBONES)
def test_weights_come_back_in_their_order(case: str, tmp_path: Path) -> None:
    backbone, weights = BACKBONES[case], random_weights(tensor_shapes(BACKBONES[case]))
    path = write_gguf(tmp_path / "m.gguf", backbone, weights, architecture=case.partition("-")[0])
    out = convert(str(path), out=tmp_path / "out", calibrate=no_memory, dtype="float32").path
    config, found = read_checkpoint(out)
    assert BackboneConfig.from_dict(config["model"]["backbone"]) == backbone
    assert same(found, weights)
    assert config["tokens"] == {"eos": [EOS], "bos": 1, "add_bos": False}
    assert (out / "chat_template.jinja").read_text() == TEMPLATE


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_are_those_of_the_library(kind: str, dtype: str, tmp_path: Path) -> None:
    """Quantising and permuting rows commute: a row is quantised by itself."""
    weights = random_weights(tensor_shapes(tiny_backbone()))
    path = write_gguf(tmp_path / "m.gguf", tiny_backbone(), weights, kind=kind)
    out = convert(str(path), out=tmp_path / "out", calibrate=no_memory, dtype=dtype).path

    expected = {
        name: tensor if tensor.dim() == 1 else in_file(tensor, GGMLQuantizationType[kind])
        for name, tensor in weights.items()
    }
    assert not same(expected, weights)
    rounded = {name: tensor.to(getattr(torch, dtype)) for name, tensor in expected.items()}
    found = read_checkpoint(out)[1]
    assert same(found, rounded)
    assert not any(bool((tensor.signbit() & (tensor == 0)).any()) for tensor in found.values())


def test_a_tensor_is_dequantised_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights(tensor_shapes(tiny_backbone()))
    path = write_gguf(tmp_path / "m.gguf", tiny_backbone(), weights, kind="Q8_0")
    whole = GgufFile(path).read("token_embd.weight", torch.float32)
    monkeypatch.setattr("hope_model.convert.gguf_file._CHUNK_VALUES", 7 * whole.shape[1] + 1)
    assert torch.equal(GgufFile(path).read("token_embd.weight", torch.float32), whole)


def opened(path: Path) -> BackboneConfig:
    return GgufSource(str(path)).open(path.parent, silent).backbone


def llama_3_factors(scaling: RopeScaling, theta: float) -> np.ndarray[Any, Any]:
    """As llama.cpp's converter computes them."""
    factors: list[float] = []
    low = scaling.original_context / scaling.low_freq_factor
    high = scaling.original_context / scaling.high_freq_factor
    for frequency in 1.0 / theta ** (torch.arange(0, HEAD_WIDTH, 2, dtype=torch.float32) / HEAD_WIDTH):
        wavelength = 2 * math.pi / float(frequency)
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(scaling.factor)
        else:
            smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
                scaling.high_freq_factor - scaling.low_freq_factor
            )
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    assert 1.0 in factors
    assert scaling.factor in factors
    return np.array(factors, dtype=np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_scaling_of_llama_3_is_recognised(factor: float, tmp_path: Path) -> None:
    scaling = RopeScaling(factor, 1.0, 4.0, 8192)
    backbone = tiny_backbone(rope_theta=5e5, rope_scaling=scaling)
    path = write_gguf(
        tmp_path / "m.gguf",
        backbone,
        random_weights(tensor_shapes(backbone)),
        settings=lambda writer: writer.add_tensor("rope_freqs.weight", llama_3_factors(scaling, 5e5)),
    )
    assert opened(path) == backbone


@pytest.mark.parametrize(
    "scaling", [RopeScaling(8.0, 1.0, 4.0, 4096), RopeScaling(8.0, 1.0, 2.0, 8192)], ids=str
)
def test_another_scaling_is_refused(scaling: RopeScaling, tmp_path: Path) -> None:
    backbone = tiny_backbone(rope_theta=5e5)
    path = write_gguf(
        tmp_path / "m.gguf",
        backbone,
        random_weights(tensor_shapes(backbone)),
        settings=lambda writer: writer.add_tensor("rope_freqs.weight", llama_3_factors(scaling, 5e5)),
    )
    with pytest.raises(ConversionError, match=r"rope_freqs\.weight.*Llama 3"):
        opened(path)


def _yarn(writer: GGUFWriter) -> None:
    from gguf import RopeScalingType

    writer.add_rope_scaling_type(RopeScalingType.YARN)


REFUSED: dict[str, tuple[Any, str]] = {
    "yarn": (_yarn, r"llama\.rope\.scaling\.type: expected none, found 'yarn'"),
    "window": (lambda writer: writer.add_sliding_window(128), "sliding_window: expected 0, found '128'"),
    "experts": (lambda writer: writer.add_expert_count(8), "expert_count: expected 0"),
    "partial": (lambda writer: writer.add_rope_dimension_count(8), "rope.dimension_count: expected 16"),
    "values": (lambda writer: writer.add_value_length(8), "value_length: expected 16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_backbone_cannot_do_is_refused(case: str, tmp_path: Path) -> None:
    settings, message = REFUSED[case]
    weights = random_weights(tensor_shapes(tiny_backbone()))
    path = write_gguf(tmp_path / "m.gguf", tiny_backbone(), weights, settings=settings)
    with pytest.raises(ConversionError, match=message):
        opened(path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    weights = random_weights(tensor_shapes(tiny_backbone()))
    path = write_gguf(tmp_path / "m.gguf", tiny_backbone(), weights, architecture="gemma2")
    with pytest.raises(ConversionError, match=r"m\.gguf: architecture: expected one of .*found 'gemma2'"):
        opened(path)


def test_a_number_of_heads_by_layer_is_refused(tmp_path: Path) -> None:
    weights = random_weights(tensor_shapes(tiny_backbone()))
    heads: Any = dataclasses.replace(tiny_backbone())
    object.__setattr__(heads, "kv_heads", [2] * LAYERS)

    path = tmp_path / "m.gguf"
    norms = {name: tensor for name, tensor in weights.items() if tensor.dim() == 1}
    write_gguf(path, heads, {**norms, "model.embed_tokens.weight": weights["model.embed_tokens.weight"]})
    with pytest.raises(ConversionError, match="head_count_kv: expected an integer"):
        opened(path)


def test_rows_that_are_not_whole_blocks_are_refused(tmp_path: Path) -> None:
    """Checked by the reader, before the library would divide without a rest."""
    path = tmp_path / "m.gguf"
    weights = random_weights(tensor_shapes(tiny_backbone()))
    write_gguf(path, tiny_backbone(), weights, kind="Q8_0")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"blk.0.ffn_down.weight") + len(b"blk.0.ffn_down.weight") + 4
    assert raw[at] == MLP_WIDTH
    raw[at] = MLP_WIDTH - 1
    path.write_bytes(raw)
    with pytest.raises(ConversionError, match=r"blk\.0\.ffn_down\.weight.*blocks of 32"):
        opened(path)
