"""Without a memory, a converted model gives the logits that transformers gives."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.model.attention.tiny import PREFIX, WINDOW, level, memory_config, memory_constants
from tests.model.convert.builders import tiny_tokenizer
from torch import Tensor

from hope_model.attention.checkpoint import load_attention_checkpoint
from hope_model.attention.config import GRID, BackboneConfig, HopeAttentionConfig
from hope_model.attention.model import HopeAttention
from hope_model.convert.convert import convert

TOLERANCE = 1e-4
"""Largest absolute error of a logit, in fp32."""
VOCAB, LENGTH = 320, 300
Constants = tuple[dict[str, object], dict[str, Tensor]]
Pair = tuple[Any, HopeAttention]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Llama-untied": {"tie_word_embeddings": False},
    "Llama-biased": {"attention_bias": True, "mlp_bias": True},
    "Llama-scaled": {"rope_parameters": LLAMA3, "head_dim": 20},
    "Llama-ungrouped": {"num_key_value_heads": 4, "rms_norm_eps": 1e-2},
    "Qwen2": {},
    "Qwen3": {"head_dim": 24},
    "Qwen3-biased": {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": False},
    "SmolLM3": {"no_rope_layers": [1, 0, 1]},
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What transformers and what it imports warn of is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def transformers() -> Any:
    """The library, untyped."""
    import transformers

    return transformers


def theirs(case: str) -> Any:
    """A random model of transformers, with eager attention in fp32."""
    family = case.partition("-")[0]
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 72,
        "head_dim": 12,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 2,
        "attn_implementation": "eager",
    }
    if family == "Qwen2":
        del sizes["head_dim"]
    config = getattr(transformers(), f"{family}Config")(**{**sizes, **MODELS[case]})
    torch.manual_seed(5)
    model = getattr(transformers(), f"{family}ForCausalLM")(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.normal_()
        if "norm" in name:
            parameter.mul_(0.2).add_(1)
        elif parameter.dim() > 1:
            parameter.mul_(parameter.shape[1] ** -0.5)
    return model


def constants(backbone: BackboneConfig) -> Constants:
    memory = memory_config(level(first_layer=0, last_layer=0))
    return asdict(memory), memory_constants(HopeAttentionConfig("parity", backbone, memory))


def trivial(
    backbone: BackboneConfig, *_: object, **__: object
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """A calibration of which nothing is read here."""
    return constants(backbone)


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """transformers' model, and ours that was converted from its folder."""
    folder: Path = tmp_path_factory.mktemp("parity")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = theirs(request.param)
        model.save_pretrained(folder / "source")
    (folder / "source" / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    out = convert(str(folder / "source"), out=folder / "out", calibrate=trivial, dtype="float32").path
    return model, load_attention_checkpoint(out, dtype=torch.float32).model


def ids(rows: int = 2) -> Tensor:
    return torch.randint(VOCAB, (rows, LENGTH), generator=torch.Generator().manual_seed(1))


def mask(seen: Tensor) -> Tensor:
    """What transformers adds to scores, ``[1, 1, T, T]``."""
    return torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)[None, None]


def behind() -> Tensor:
    place = torch.arange(LENGTH)
    return place[:, None] - place


def close(found: Tensor, expected: Tensor) -> None:
    assert float(expected.std()) > 0.5, "such logits would hide an error"
    error = float((found - expected).abs().max())
    assert error <= TOLERANCE, f"a logit is off by {error:.2e}"


@torch.inference_mode()
def test_a_text_in_full_view(pair: Pair) -> None:
    them, us = pair
    close(us.forward(ids()), them(ids()).logits)


@torch.inference_mode()
@pytest.mark.parametrize("window", [1, 5, WINDOW])
def test_a_text_through_a_window(pair: Pair, window: int) -> None:
    them, us = pair
    seen = (behind() >= 0) & (behind() < window)
    close(us.forward(ids(), window=window), them(ids(), attention_mask=mask(seen)).logits)


@torch.inference_mode()
@pytest.mark.parametrize("prefix", [0, 1, 20, PREFIX])
def test_a_text_through_the_cache(pair: Pair, prefix: int) -> None:
    """Past the ring's end, with the prefix in sight."""
    them, us = pair
    cache = us.new_cache(2)
    for row in cache.rows:
        row.prefix = prefix
    x = torch.cat([us.read(cache, [0, 1], part, None) for part in ids().split(GRID - 1, dim=1)], dim=1)
    seen = (behind() >= 0) & ((behind() < WINDOW) | (torch.arange(LENGTH) < prefix))
    close(us.backbone.logits(x), them(ids(), attention_mask=mask(seen)).logits)


@torch.inference_mode()
def test_the_window_is_that_of_mistral() -> None:
    """Mistral is Llama with a window: the same weights, and a mask that transformers makes itself."""
    llama = theirs("Llama-untied")
    fields = {
        name: value
        for name, value in llama.config.to_dict().items()
        if name not in ("model_type", "architectures", "attention_bias", "mlp_bias", "pretraining_tp")
    }
    config = transformers().MistralConfig(**fields, sliding_window=7, attn_implementation="eager")
    mistral = transformers().MistralForCausalLM(config).eval()
    mistral.load_state_dict(llama.state_dict())
    us = ours(
        BackboneConfig(VOCAB, 48, 3, 4, 2, 12, 72, norm_epsilon=1e-6, rope_theta=5000.0, tied_head=False),
        llama.state_dict(),
    )
    close(us.forward(ids(), window=7), mistral(ids()).logits)


def ours(backbone: BackboneConfig, weights: Mapping[str, Tensor]) -> HopeAttention:
    memory, tensors = constants(backbone)
    config = HopeAttentionConfig.from_dict({"name": "ours", "backbone": asdict(backbone), "memory": memory})
    return HopeAttention(config, {**weights, **tensors}, dtype=torch.float32)


@pytest.fixture
def smollm2(tmp_path: Path) -> Path:
    return convert("smollm2-135m", out=tmp_path / "smollm2", calibrate=trivial).path


@pytest.mark.slow
@torch.inference_mode()
def test_smollm2_itself(smollm2: Path) -> None:
    """Against transformers' model of the same tensors, in fp32; in bf16 the likeliest tokens are the same."""
    weights = {
        name: tensor.float()
        for name, tensor in load_file(smollm2 / "model.safetensors").items()
        if not name.startswith("memory.")
    }
    config = transformers().LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        attn_implementation="eager",
    )
    them = transformers().LlamaForCausalLM(config).eval()
    missing, unexpected = them.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    checkpoint = load_attention_checkpoint(smollm2, dtype=torch.float32)
    tokens = torch.tensor([checkpoint.tokenizer.encode("The capital of France is Paris, and " * 12)])
    expected = them(tokens).logits
    error = float((checkpoint.model.forward(tokens) - expected).abs().max())
    assert error <= 1e-4, f"a logit is off by {error:.2e}"
    served = load_attention_checkpoint(smollm2).model.forward(tokens)
    agree = (served.argmax(-1) == expected.argmax(-1)).float().mean()
    assert float(agree) > 0.95
