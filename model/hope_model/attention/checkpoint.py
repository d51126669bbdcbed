"""Reading a converted checkpoint: config.json, model.safetensors, tokenizer.json, chat_template.jinja."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hope_kernels.quantized_linear import Bits
from hope_model.attention.backbone import tensor_shapes
from hope_model.attention.config import HopeAttentionConfig
from hope_model.attention.memory import CANARY_START, CANARY_TOKENS, memory_shapes
from hope_model.attention.model import HopeAttention
from hope_model.checkpoint import FORMAT, HOST, read_config_file, read_weights, require_layers
from hope_model.errors import CheckpointError, ConfigError, TokenizerError
from hope_model.pretrained_tokenizer import PretrainedTokenizer

FAMILY = "hope_attention"
MAX_TEMPLATE_BYTES = 1 << 20


@dataclass(frozen=True)
class AttentionCheckpoint:
    """A model with what it needs to talk. add_bos: plain texts begin with the tokenizer's ``bos_id``."""

    model: HopeAttention
    tokenizer: PretrainedTokenizer
    chat_template: str | None
    add_bos: bool


def load_attention_checkpoint(
    directory: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device = HOST,
    quantize: Bits | None = None,
) -> AttentionCheckpoint:
    """Read a checkpoint of family ``hope_attention``: frozen, in ``dtype`` or quantised, on ``device``.

    Raises:
        QuantizeError: they cannot be quantised so.
        CheckpointError: a file is missing or damaged, or files do not belong together.
    """
    content = read_config_file(directory / "config.json")
    if content.get("format") != FORMAT or content.get("family") != FAMILY:
        raise CheckpointError(f"{directory}: expected format {FORMAT} of family {FAMILY!r}")
    try:
        config = HopeAttentionConfig.from_dict(content["model"])
        tokens = _tokens(content["tokens"])
        tokenizer = PretrainedTokenizer.load(
            directory / "tokenizer.json",
            vocab_size=config.vocab_size,
            eos_ids=tokens["eos"],
            bos_id=tokens["bos"],
        )
    except (ConfigError, TokenizerError, KeyError, TypeError) as error:
        raise CheckpointError(f"{directory}: {error}") from error
    require_layers(directory / "model.safetensors", config.backbone.layers)
    expected = {
        name: torch.Size(shape)
        for name, shape in {**tensor_shapes(config.backbone), **memory_shapes(config)}.items()
    }
    weights = read_weights(directory / "model.safetensors", expected)
    if weights[CANARY_TOKENS].max() >= config.vocab_size or weights[CANARY_START].min() < 0:
        raise CheckpointError(
            f"{directory}: expected canary texts of {config.vocab_size} tokens, found others"
        )
    for name, tensor in weights.items():
        weights[name] = tensor if name.startswith("memory.") else tensor.to(dtype)
    model = HopeAttention(config, weights, dtype=dtype, device=device, quantize=quantize)
    return AttentionCheckpoint(model, tokenizer, _template(directory), bool(tokens["add_bos"]))


def attention_weights_sha256(model: HopeAttention, *, learn: bool = True) -> str:
    """Hex digest over the configuration and every frozen tensor by name, as the model uses them.

    A session that was read without learning is another one than a session that learned, so ``learn`` counts.
    """
    digest = hashlib.sha256(json.dumps([model.config.to_dict(), learn], sort_keys=True).encode())
    for name, tensor in model.frozen():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _tokens(data: Mapping[str, Any]) -> Mapping[str, Any]:
    eos, bos = data["eos"], data["bos"]
    ids = [*eos, *([] if bos is None else [bos])]
    if not isinstance(eos, list) or any(type(token) is not int for token in ids):
        raise ConfigError(f"tokens: expected ids in eos and bos, found {str(data)[:80]}")
    return {"eos": eos, "bos": bos, "add_bos": data["add_bos"]}


def _template(directory: Path) -> str | None:
    path = directory / "chat_template.jinja"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_TEMPLATE_BYTES:
        raise CheckpointError(f"{path}: expected at most {MAX_TEMPLATE_BYTES} bytes, found {len(raw)}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: expected UTF-8: {error}") from error


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
