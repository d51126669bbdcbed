"""The frozen pre-trained blocks; what a session has learned comes in from outside."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.cpu.arena import Arena
from hope_kernels.fixed_calls import in_fixed_calls
from hope_kernels.frozen_linear import FrozenLinear
from hope_kernels.quantized_linear import Bits
from hope_model.attention.config import BackboneConfig
from hope_model.attention.quantize import MakeLinear, body_linear, head_linear

REFINED = 64
"""Likeliest tokens whose logits are computed in fp32."""
Adapter = Callable[[str, Tensor], Tensor | None]
"""``(projection, its input [B, T, in]) -> what a session's memory adds to its output``, None for nothing."""
Attend = Callable[[int, Tensor, Tensor], Tensor]
"""``(layer, q and k [B, T, H + G, K], v [B, T, G, K])``, positions not applied -> ``[B, T, H K]``."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights; ``qkv`` and ``gate_up`` are projections side by side."""

    input_norm: Tensor
    qkv: FrozenLinear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: FrozenLinear
    mlp_norm: Tensor
    gate_up: FrozenLinear
    down: FrozenLinear


class Backbone:
    """Weights of a checkpoint, packed once.

    Args:
        config: sizes.
        weights: by Hugging Face's Llama names, in the type to compute in.
        differentiable_from: gradients pass from this layer on.
        quantize: how the products' weights are kept; None as they are.
        arena: where the compiled kernel keeps them; None to do without it.
    """

    def __init__(
        self,
        config: BackboneConfig,
        weights: Mapping[str, Tensor],
        *,
        differentiable_from: int,
        quantize: Bits | None = None,
        arena: Arena | None = None,
    ) -> None:
        self.config = config
        self.embedding = weights["model.embed_tokens.weight"].contiguous()
        self.norm = weights["model.norm.weight"].float()
        head = self.embedding if config.tied_head else weights["lm_head.weight"]
        self.head = head_linear(quantize)(head, arena=arena)
        self.head_rows = head
        body = partial(body_linear(quantize), arena=arena)
        self.layers = [
            _layer(config, weights, index, body, backward=index >= differentiable_from)
            for index in range(config.layers)
        ]

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def bytes_read(self) -> int:
        """Of a step; the embedding is only looked up."""
        parts = [getattr(layer, field.name) for layer in self.layers for field in fields(layer)]
        return sum(part.nbytes for part in (self.norm, self.head, *parts) if part is not None)

    def frozen(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by name, as it is used."""
        yield "embedding", self.embedding
        yield "norm", self.norm
        yield from _named("head", self.head)
        for index, layer in enumerate(self.layers):
            for field in fields(layer):
                part: Tensor | FrozenLinear | None = getattr(layer, field.name)
                if isinstance(part, Tensor):
                    yield f"{index}.{field.name}", part
                elif part is not None:
                    yield from _named(f"{index}.{field.name}", part)

    def embed(self, tokens: Tensor) -> Tensor:
        """``[B, T]`` int64 -> the residual stream ``[B, T, D]``, fp32."""
        return F.embedding(tokens, self.embedding).float()

    def layer(self, index: int, x: Tensor, attend: Attend, adapt: Adapter | None) -> Tensor:
        """One block of the residual stream ``x [B, T, D]``; products are in the weights' type."""
        layer, config = self.layers[index], self.config
        h = self._normed(x, layer.input_norm)
        heads = layer.qkv(h).view(*x.shape[:2], config.heads + 2 * config.kv_heads, config.head_width)
        qk, v = heads.split((config.heads + config.kv_heads, config.kv_heads), dim=2)
        if layer.query_norm is not None and layer.key_norm is not None:
            q, k = qk.split((config.heads, config.kv_heads), dim=2)
            qk = torch.cat((self._normed(q, layer.query_norm), self._normed(k, layer.key_norm)), dim=2)
        x = x + layer.output(attend(index, qk, v))
        return x + self._mlp(layer, self._normed(x, layer.mlp_norm), adapt)

    def logits(self, x: Tensor) -> Tensor:
        """Norm and head: ``[..., D]`` -> ``[..., vocab]``, fp32.

        A bf16 head of torch's rounds its results to 3 digits, which makes ties of likely tokens: the
        likeliest ones are computed again in fp32.
        """
        return in_fixed_calls(self._logits, x) if x.is_cuda else self._logits(x)

    def plain_logits(self, normed: Tensor) -> Tensor:
        """Of what :meth:`final` gives, in fp32 as the head's product comes; no gradient passes."""
        if self.head.compiled is not None:
            return self.head.compiled.product(normed)
        return self.head(normed).float()

    def _logits(self, x: Tensor) -> Tensor:
        if self.head.compiled is not None and not (torch.is_grad_enabled() and x.requires_grad):
            return self.head.compiled.normed_product(x.float(), self.norm, self.config.norm_epsilon)
        exact = self._exactly_normed(x, self.norm)
        logits = self.head(exact.to(self.dtype)).float()
        if self.dtype is torch.float32:
            return logits
        likely = logits.topk(min(REFINED, logits.shape[-1]), dim=-1).indices
        refined = (F.embedding(likely, self.head_rows).float() * exact[..., None, :]).sum(-1)
        return logits.scatter(-1, likely, refined)

    def final(self, x: Tensor) -> Tensor:
        """The last norm alone, what the head's rows are multiplied with; in the weights' type."""
        return self._normed(x, self.norm)

    def _mlp(self, layer: Layer, h: Tensor, adapt: Adapter | None) -> Tensor:
        gate, up = layer.gate_up(h).chunk(2, dim=-1)
        if adapt is None:
            return layer.down(F.silu(gate) * up)
        gate, up = _plus(gate, adapt("gate_proj", h)), _plus(up, adapt("up_proj", h))
        inner = F.silu(gate) * up
        return _plus(layer.down(inner), adapt("down_proj", inner))

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._exactly_normed(x, weight).to(self.dtype)

    def _exactly_normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x.float(), weight.shape, weight, self.config.norm_epsilon)


def _plus(x: Tensor, more: Tensor | None) -> Tensor:
    return x if more is None else x + more


def _named(name: str, linear: FrozenLinear) -> Iterator[tuple[str, Tensor]]:
    for suffix, tensor in linear.constants():
        yield name + suffix, tensor


def _layer(
    config: BackboneConfig, weights: Mapping[str, Tensor], index: int, make: MakeLinear, *, backward: bool
) -> Layer:
    prefix = f"model.layers.{index}."

    def side_by_side(block: str, names: tuple[str, ...], *, bias: bool) -> FrozenLinear:
        parts = [f"{prefix}{block}.{name}" for name in names]
        weight = torch.cat([weights[f"{part}.weight"] for part in parts])
        biases = torch.cat([weights[f"{part}.bias"] for part in parts]) if bias else None
        return make(weight, biases, backward=backward)

    return Layer(
        input_norm=weights[f"{prefix}input_layernorm.weight"].float(),
        qkv=side_by_side("self_attn", ("q_proj", "k_proj", "v_proj"), bias=config.qkv_bias),
        query_norm=weights[f"{prefix}self_attn.q_norm.weight"].float() if config.qk_norm else None,
        key_norm=weights[f"{prefix}self_attn.k_norm.weight"].float() if config.qk_norm else None,
        output=side_by_side("self_attn", ("o_proj",), bias=config.output_bias),
        mlp_norm=weights[f"{prefix}post_attention_layernorm.weight"].float(),
        gate_up=side_by_side("mlp", ("gate_proj", "up_proj"), bias=config.mlp_bias),
        down=side_by_side("mlp", ("down_proj",), bias=config.mlp_bias),
    )


def tensor_shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every weight that a backbone of ``config`` takes."""
    d, k, inner = config.width, config.head_width, config.mlp_width
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, d),
        "model.norm.weight": (d,),
    }
    if not config.tied_head:
        shapes["lm_head.weight"] = (config.vocab_size, d)
    linears = {
        "self_attn.q_proj": (config.heads * k, d, config.qkv_bias),
        "self_attn.k_proj": (config.kv_heads * k, d, config.qkv_bias),
        "self_attn.v_proj": (config.kv_heads * k, d, config.qkv_bias),
        "self_attn.o_proj": (d, config.heads * k, config.output_bias),
        "mlp.gate_proj": (inner, d, config.mlp_bias),
        "mlp.up_proj": (inner, d, config.mlp_bias),
        "mlp.down_proj": (d, inner, config.mlp_bias),
    }
    for index in range(config.layers):
        prefix = f"model.layers.{index}."
        for name, (rows, columns, bias) in linears.items():
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{prefix}{name}.bias"] = (rows,)
        shapes[f"{prefix}input_layernorm.weight"] = (d,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (d,)
        if config.qk_norm:
            shapes[f"{prefix}self_attn.q_norm.weight"] = (k,)
            shapes[f"{prefix}self_attn.k_norm.weight"] = (k,)
    return shapes
