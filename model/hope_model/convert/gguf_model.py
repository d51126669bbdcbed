"""A GGUF file as a source."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hope_model.attention.config import BackboneConfig, RopeScaling
from hope_model.config import MAX_SIZE
from hope_model.convert.architectures import Architecture, every, find_architecture
from hope_model.convert.fields import Fields
from hope_model.convert.files import sha256_of
from hope_model.convert.gguf_file import MAGIC, GgufFile
from hope_model.convert.gguf_tokenizer import tokenizer_json, turn_tokens
from hope_model.convert.progress import Progress
from hope_model.convert.source import Pretrained, local_path, model_name
from hope_model.convert.tensors import Shape
from hope_model.errors import ConfigError, ConversionError

_ROPE_FACTORS = "rope_freqs.weight"
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NEUTRAL = {
    "expert_count": 0,
    "attention.sliding_window": 0,
    "rope.scaling.type": "none",
    "rope.scale_linear": 1.0,
}
"""Settings that a backbone follows in one way only."""


class GgufSource:
    """One .gguf file with a whole model."""

    def __init__(self, reference: str) -> None:
        self._path = local_path(reference).resolve()
        self.name = model_name(self._path.stem)

    @staticmethod
    def accepts(reference: str) -> bool:
        path = local_path(reference)
        if path.suffix == ".gguf" or not path.is_file():
            return path.is_file()
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC

    def identity(self, progress: Progress) -> dict[str, Any]:
        return {"kind": "gguf", "name": self._path.name, "sha256": sha256_of(self._path, progress)}

    def open(self, scratch: Path, progress: Progress) -> Pretrained:
        file = GgufFile(self._path)
        metadata = Fields(file.metadata, self._path.name)
        architecture = find_architecture(metadata.text("general.architecture"), self._path.name)
        names = {_hugging_face_name(name): name for name in file.shapes if name != _ROPE_FACTORS}
        shapes = {name: file.shapes[original] for name, original in names.items()}
        backbone = _backbone(metadata, architecture, shapes, file)

        def read(name: str, dtype: torch.dtype) -> Tensor:
            tensor = file.read(names[name], dtype)
            heads = _permuted_heads(name, backbone) if architecture.gguf_permuted else 0
            return _rows_in_order(tensor, heads) if heads else tensor

        return Pretrained(
            backbone=backbone,
            shapes=shapes,
            read=read,
            tokenizer_json=tokenizer_json(metadata),
            chat_template=metadata.text("tokenizer.chat_template", "") or None,
            tokens=turn_tokens(metadata),
            licence=metadata.text("general.license", "") or None,
        )


def _hugging_face_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    block, _, part = stem.removeprefix("blk.").partition(".")
    known = stem.startswith("blk.") and block.isdecimal() and part in _INNER
    return f"model.layers.{block}.{_INNER[part]}.{kind}" if known else name


def _permuted_heads(name: str, backbone: BackboneConfig) -> int:
    """Heads whose rows the file holds in another order; 0 for tensors that it leaves alone."""
    part = name.rpartition(".")[0]
    if part.endswith("self_attn.q_proj"):
        return backbone.heads
    return backbone.kv_heads if part.endswith("self_attn.k_proj") else 0


def _rows_in_order(tensor: Tensor, heads: int) -> Tensor:
    """Undo the order of llama.cpp, which puts the two features that a rotation turns side by side.

    tensor: [heads * head_width, ...]; within a head, rows 0 1 2 3 .. become 0 2 4 .. 1 3 5 ..
    """
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape).contiguous()


def _backbone(
    metadata: Fields, architecture: Architecture, shapes: Mapping[str, Shape], file: GgufFile
) -> BackboneConfig:
    prefix = architecture.gguf
    layers = metadata.integer(f"{prefix}.block_count")
    if not 1 <= layers <= MAX_SIZE:
        raise metadata.refusal(f"{prefix}.block_count", "a positive integer", layers)
    width = metadata.integer(f"{prefix}.embedding_length")
    heads = metadata.integer(f"{prefix}.attention.head_count")
    by_head = width // heads if heads > 0 else 0
    head_width = metadata.integer(f"{prefix}.attention.key_length", by_head)
    _refuse_what_a_backbone_lacks(metadata, prefix, head_width)
    first, embedding = "model.layers.0", shapes.get("model.embed_tokens.weight")
    if embedding is None:
        raise ConversionError("tensor 'token_embd.weight': expected one, found no such tensor")
    theta = _shortest(metadata.number(f"{prefix}.rope.freq_base", architecture.rope_theta))
    interval = architecture.no_rope_interval
    try:
        return BackboneConfig(
            vocab_size=embedding[0],
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=metadata.integer(f"{prefix}.attention.head_count_kv", heads),
            head_width=head_width,
            mlp_width=metadata.integer(f"{prefix}.feed_forward_length"),
            norm_epsilon=_shortest(metadata.number(f"{prefix}.attention.layer_norm_rms_epsilon")),
            rope_theta=theta,
            rope_scaling=_rope_scaling(file, theta, head_width),
            qkv_bias=f"{first}.self_attn.q_proj.bias" in shapes,
            output_bias=f"{first}.self_attn.o_proj.bias" in shapes,
            mlp_bias=f"{first}.mlp.gate_proj.bias" in shapes,
            qk_norm=architecture.qk_norm,
            tied_head="lm_head.weight" not in shapes,
            no_rope_layers=() if interval is None else every(interval, layers),
        )
    except ConfigError as error:
        raise ConversionError(f"{prefix}: {error}") from error


def _refuse_what_a_backbone_lacks(metadata: Fields, prefix: str, head_width: int) -> None:
    for name in ("attention.value_length", "rope.dimension_count"):
        if metadata.integer(f"{prefix}.{name}", head_width) != head_width:
            raise metadata.refusal(f"{prefix}.{name}", str(head_width), metadata.get(f"{prefix}.{name}"))
    for name, neutral in _NEUTRAL.items():
        found = metadata.get(f"{prefix}.{name}")
        if found is not None and found != neutral:
            raise metadata.refusal(f"{prefix}.{name}", str(neutral), found)


def _shortest(value: float) -> float:
    """The shortest decimal that the file's single-precision number stands for: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value)))


def _rope_scaling(file: GgufFile, theta: float, head_width: int) -> RopeScaling | None:
    """Llama 3's scaling, of which the file keeps the factor by frequency alone.

    The other numbers are those of every model that Llama 3's makers published; they are checked by computing
    the factors anew.
    """
    if _ROPE_FACTORS not in file.shapes:
        return None
    found = file.read(_ROPE_FACTORS, torch.float64).flatten().tolist()
    factor = max(found, default=0.0)
    if math.isfinite(factor) and factor > 0:
        scaling = RopeScaling(factor, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
        expected = _factors(scaling, theta, head_width)
        if len(expected) == len(found) and np.allclose(found, expected, rtol=1e-4, atol=0):
            return scaling
    raise ConversionError(f"tensor {_ROPE_FACTORS!r}: expected the factors of Llama 3, found others")


def _factors(scaling: RopeScaling, theta: float, head_width: int) -> list[float]:
    """By what the wavelength of each pair of features is stretched."""
    factors = []
    for i in range(0, head_width, 2):
        turns = scaling.original_context / (2 * math.pi * theta ** (i / head_width))
        span = scaling.high_freq_factor - scaling.low_freq_factor
        share = min(1.0, max(0.0, (turns - scaling.low_freq_factor) / span))
        factors.append(1 / ((1 - share) / scaling.factor + share))
    return factors
