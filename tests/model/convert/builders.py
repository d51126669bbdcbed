"""Tiny models in the layouts that `hope convert` reads, with weights that the tests know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor

from hope_model.attention.config import BackboneConfig

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS = SPECIALS.index("<|im_end|>")
THINK = "<think>"
"""An added token that is not special."""
VOCAB = 320
"""Rows of the embedding: more than the tokenizer has ids."""
WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_WIDTH, MLP_WIDTH = 64, 4, 4, 2, 16, 96
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
TEXTS = ("the cat sat on the mat", "Hello 1234 <|im_end|>!\n\n\tx = 'Ünï'", " it's ☃ <think>\r\n ")


def tiny_tokenizer() -> Backend:
    """Byte-level BPE: three specials first, bytes, a few merges, and `THINK` last."""
    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = ByteLevelDecoder()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=list(SPECIALS), show_progress=False
    )
    backend.train_from_iterator(["the cat sat on the mat and the hat"] * 4, trainer)
    backend.add_tokens([AddedToken(THINK, normalized=False, special=False)])
    return backend


def tiny_backbone(**changes: Any) -> BackboneConfig:
    sizes = {
        "vocab_size": VOCAB,
        "width": WIDTH,
        "layers": LAYERS,
        "heads": HEADS,
        "kv_heads": KV_HEADS,
        "head_width": HEAD_WIDTH,
        "mlp_width": MLP_WIDTH,
    }
    return BackboneConfig(**{**sizes, **changes})


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Values in fp32, each tensor's its own."""
    torch.manual_seed(11)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def hugging_face_config(architecture: str = "LlamaForCausalLM", **changes: Any) -> dict[str, Any]:
    config = {
        "architectures": [architecture],
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_WIDTH,
        "intermediate_size": MLP_WIDTH,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "eos_token_id": EOS,
    }
    return {**config, **changes}


def write_folder(folder: Path, weights: Mapping[str, Tensor], **changes: Any) -> Path:
    """A Hugging Face folder, without transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hugging_face_config(**changes)))
    (folder / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order in which llama.cpp's converter stores rows of Llama's queries and keys."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        layer, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}"
    return f"{GGUF_NAMES[stem]}.{kind}"


def write_gguf(
    path: Path,
    backbone: BackboneConfig,
    weights: Mapping[str, Tensor],
    *,
    architecture: str = "llama",
    kind: str = "F32",
    settings: Callable[[Any], None] | None = None,
    pre: str = "smollm",
) -> Path:
    """A GGUF file as llama.cpp's converter would write it; matrices of type ``kind``."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    writer = GGUFWriter(path, architecture)
    writer.add_block_count(backbone.layers)
    writer.add_embedding_length(backbone.width)
    writer.add_feed_forward_length(backbone.mlp_width)
    writer.add_head_count(backbone.heads)
    writer.add_head_count_kv(backbone.kv_heads)
    writer.add_key_length(backbone.head_width)
    writer.add_layer_norm_rms_eps(backbone.norm_epsilon)
    writer.add_rope_freq_base(backbone.rope_theta)
    add_tokenizer(writer, pre)
    if settings is not None:
        settings(writer)
    for name, tensor in weights.items():
        value = tensor.numpy()
        if architecture in ("llama", "smollm3") and ".q_proj." in name:
            value = permuted(value, backbone.heads)
        if architecture in ("llama", "smollm3") and ".k_proj." in name:
            value = permuted(value, backbone.kv_heads)
        stored = GGMLQuantizationType[kind if value.ndim > 1 else "F32"]
        writer.add_tensor(gguf_name(name), quantize(np.ascontiguousarray(value), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: Any, pre: str) -> None:
    """`tiny_tokenizer` in GGUF's terms, filled up to `VOCAB` as the converter does."""
    content = json.loads(tiny_tokenizer().to_str())
    by_id = {i: token for token, i in content["model"]["vocab"].items()}
    added = {token["id"]: token for token in content["added_tokens"]}
    tokens, types = [], []
    for i in range(VOCAB):
        if i in added:
            tokens.append(added[i]["content"])
            types.append(3 if added[i]["special"] else 4)
        else:
            tokens.append(by_id.get(i, f"[PAD{i}]"))
            types.append(1 if i in by_id else 5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    writer.add_eos_token_id(EOS)
    writer.add_bos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def no_memory(*_: object, **__: object) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The trivial calibration."""
    return {"levels": []}, {"memory.scale": torch.full((3,), 0.5)}


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json, and the backbone's tensors."""
    weights = load_file(folder / "model.safetensors")
    assert torch.equal(weights.pop("memory.scale"), torch.full((3,), 0.5))
    return json.loads((folder / "config.json").read_text()), weights


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Equal names, shapes, types and bits."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in expected.items()
    )
