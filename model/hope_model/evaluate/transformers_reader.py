"""Unlimited context by someone else's code: transformers' Llama on the same tensors."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hope_model.attention.backbone import tensor_shapes
from hope_model.attention.config import BackboneConfig, HopeAttentionConfig
from hope_model.attention.memory import memory_shapes
from hope_model.checkpoint import read_weights
from hope_model.errors import ConfigError
from hope_model.evaluate.conversation import Part, flat


def load_llama(folder: Path, config: HopeAttentionConfig, dtype: torch.dtype) -> Any:
    """transformers' ``LlamaForCausalLM`` with the tensors of a converted checkpoint.

    Raises:
        ConfigError: transformers is not installed, or the model's blocks are no plain Llama blocks.
        CheckpointError: the tensors cannot be read.
    """
    try:
        from transformers import LlamaForCausalLM
    except ImportError as error:
        raise ConfigError("reference transformers: expected the package transformers, found none") from error
    shapes = {**tensor_shapes(config.backbone), **memory_shapes(config)}
    weights = read_weights(folder / "model.safetensors", {k: torch.Size(v) for k, v in shapes.items()})
    model: Any = LlamaForCausalLM(llama_config(config.backbone))
    own = {name: tensor for name, tensor in weights.items() if not name.startswith("memory.")}
    if config.backbone.tied_head:
        own["lm_head.weight"] = own["model.embed_tokens.weight"]
    model.load_state_dict(own)
    return model.to(dtype).eval()


def llama_config(backbone: BackboneConfig) -> Any:
    """transformers' configuration of the same blocks; raises ConfigError where Llama has no such blocks."""
    from transformers import LlamaConfig

    if backbone.qk_norm or backbone.no_rope_layers or backbone.qkv_bias != backbone.output_bias:
        raise ConfigError(
            "reference transformers: expected the blocks of Llama, found others (norms of queries and keys, "
            "layers without positions, or biases of queries alone); use the reference 'own'"
        )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": backbone.rope_theta}
    if backbone.rope_scaling is not None:
        scaling = asdict(backbone.rope_scaling)
        rope |= {"rope_type": "llama3", "original_max_position_embeddings": scaling.pop("original_context")}
        rope |= scaling
    return LlamaConfig(
        vocab_size=backbone.vocab_size,
        hidden_size=backbone.width,
        num_hidden_layers=backbone.layers,
        num_attention_heads=backbone.heads,
        num_key_value_heads=backbone.kv_heads,
        head_dim=backbone.head_width,
        intermediate_size=backbone.mlp_width,
        rms_norm_eps=backbone.norm_epsilon,
        rope_parameters=rope,
        attention_bias=backbone.qkv_bias,
        mlp_bias=backbone.mlp_bias,
        tie_word_embeddings=backbone.tied_head,
        max_position_embeddings=1 << 20,
    )


class TransformersReader:
    """A :class:`~hope_model.evaluate.reader.Reader` over a loaded model, one conversation."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self._model = model
        self._cache = DynamicCache(config=model.config)
        # Newer versions have renamed the argument and warn about the old name.
        taken = signature(type(model).forward).parameters
        self._cache_argument = "cache" if "cache" in taken else "past_key_values"

    def read(self, parts: Sequence[Part]) -> None:
        """See ``Reader``."""
        if tokens := flat(parts):
            self._run(self._cache, torch.tensor([tokens]))

    def judge(self, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[float]:
        """See ``Reader``; one answer after the other."""
        asked = copy.deepcopy(self._cache)
        first = self._run(asked, torch.tensor([list(prompt)]))[-1:]
        found = []
        for answer in answers:
            rest = first[:0]
            if len(answer) > 1:
                rest = self._run(copy.deepcopy(asked), torch.tensor([list(answer[:-1])]))
            chances = torch.cat([first, rest]).log_softmax(-1)
            found.append(float(chances.gather(-1, torch.tensor(answer)[:, None]).sum()))
        return found

    def answer(self, prompts: Sequence[Sequence[int]], limit: int, stop: Collection[int]) -> list[list[int]]:
        """See ``Reader``; one prompt after the other."""
        return [self._answer(prompt, limit, stop) for prompt in prompts]

    def _answer(self, prompt: Sequence[int], limit: int, stop: Collection[int]) -> list[int]:
        cache, ids, answer = copy.deepcopy(self._cache), torch.tensor([list(prompt)]), list[int]()
        while len(answer) < limit:
            token = int(self._run(cache, ids)[-1].argmax())
            if token in stop:
                break
            answer.append(token)
            ids = torch.tensor([[token]])
        return answer

    @torch.inference_mode()
    def _run(self, cache: Any, ids: Tensor) -> Tensor:
        """Logits ``[T, vocab]`` fp32 after each of ``ids [1, T]``, which the cache takes in."""
        logits: Tensor = self._model(ids, **{self._cache_argument: cache}).logits[0].float()
        return logits
