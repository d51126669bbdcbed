"""config.json of the four architectures: what it says, what it implies, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.model.convert.builders import LAYERS, hugging_face_config, tiny_backbone

from hope_model.attention.config import BackboneConfig, RopeScaling
from hope_model.convert.fields import Fields
from hope_model.convert.huggingface_config import backbone_from
from hope_model.errors import ConversionError

LLAMA_3 = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SCALING = RopeScaling(32.0, 1.0, 4.0, 8192)


def parsed(architecture: str = "LlamaForCausalLM", **changes: Any) -> BackboneConfig:
    return backbone_from(Fields(hugging_face_config(architecture, **changes), "config.json"))


def test_absent_fields_have_the_values_of_their_architecture() -> None:
    absent: dict[str, Any] = dict.fromkeys(("head_dim", "num_key_value_heads", "rms_norm_eps"))
    absent["tie_word_embeddings"] = None
    llama = parsed(**absent)
    assert (llama.head_width, llama.kv_heads, llama.norm_epsilon, llama.tied_head) == (16, 4, 1e-6, False)
    assert parsed("Qwen3ForCausalLM", **absent).head_width == 128
    smol = parsed("SmolLM3ForCausalLM", **absent)
    assert (smol.rope_theta, smol.tied_head, smol.no_rope_layers) == (2e6, True, (3,))


@pytest.mark.parametrize(
    ("fields", "theta", "scaling"),
    [
        ({}, 1e4, None),
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5, None),
        ({"rope_theta": 7, "rope_parameters": {"rope_theta": 5e5}}, 5e5, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5, None),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA_3}}, 5e5, SCALING),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA_3}}, 5e5, SCALING),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA_3}}, 5e5, SCALING),
    ],
)
def test_positions(fields: dict[str, Any], theta: float, scaling: RopeScaling | None) -> None:
    found = parsed(**fields)
    assert (found.rope_theta, found.rope_scaling) == (theta, scaling)


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({"no_rope_layers": [0, 1, 1, 0]}, (0, 3)),
        ({"no_rope_layers": [1] * (LAYERS + 2)}, ()),
        ({"no_rope_layer_interval": 2}, (1, 3)),
        ({"no_rope_layers": [1, 1, 0, 1], "no_rope_layer_interval": 2}, (2,)),
    ],
)
def test_layers_without_positions(fields: dict[str, Any], layers: tuple[int, ...]) -> None:
    assert parsed("SmolLM3ForCausalLM", **fields).no_rope_layers == layers


@pytest.mark.parametrize(
    "fields",
    [
        {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": None},
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": LAYERS},
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention"] * LAYERS},
    ],
)
def test_a_window_that_is_not_in_force_is_no_obstacle(fields: dict[str, Any]) -> None:
    assert parsed("Qwen2ForCausalLM", **fields) == tiny_backbone(qkv_bias=True)


def test_code_of_the_folder_is_not_looked_at() -> None:
    assert parsed(auto_map={"AutoModel": "evil.py--Model"}, trust_remote_code=True) == tiny_backbone()


@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        ("GPT2LMHeadModel", {}, "architecture: expected one of LlamaForCausalLM, .*found 'GPT2LMHeadModel'"),
        ("LlamaForCausalLM", {"architectures": None}, "architectures: expected a list, found none"),
        ("LlamaForCausalLM", {"architectures": []}, "architectures: expected one name"),
        (
            "LlamaForCausalLM",
            {"rope_scaling": {"type": "yarn", "factor": 2}},
            "default or llama3, found 'yarn'",
        ),
        ("LlamaForCausalLM", {"rope_scaling": {"type": "linear", "factor": 2}}, "found 'linear'"),
        ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "dynamic"}}, "found 'dynamic'"),
        ("LlamaForCausalLM", {"rope_scaling": {"type": "llama3"}}, "original_max_position_embeddings"),
        ("LlamaForCausalLM", {"rope_scaling": ["yarn"]}, "rope_scaling: expected an object"),
        ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1"),
        ("LlamaForCausalLM", {"quantization_config": {"bits": 4}}, "weights that are not quantised"),
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, "hidden_act: expected silu, found 'gelu'"),
        ("LlamaForCausalLM", {"vocab_size": None}, "vocab_size: expected an integer, found none"),
        ("LlamaForCausalLM", {"vocab_size": "many"}, "vocab_size: expected an integer, found 'many'"),
        ("LlamaForCausalLM", {"vocab_size": True}, "vocab_size: expected an integer, found 'True'"),
        ("LlamaForCausalLM", {"num_key_value_heads": 3}, "kv_heads: 3 does not divide heads 4"),
        ("LlamaForCausalLM", {"num_attention_heads": 0, "head_dim": None}, "heads: expected a positive"),
        ("LlamaForCausalLM", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("LlamaForCausalLM", {"rms_norm_eps": float("nan")}, "norm_epsilon"),
        ("LlamaForCausalLM", {"rms_norm_eps": 10**400}, "rms_norm_eps: expected a number, found '1000"),
        ("LlamaForCausalLM", {"attention_bias": "yes"}, "attention_bias: expected true or false"),
        (
            "Qwen2ForCausalLM",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
            "use_sliding_window: expected full attention",
        ),
        (
            "Qwen3ForCausalLM",
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"]},
            "use_sliding_window",
        ),
        ("SmolLM3ForCausalLM", {"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window"),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [0, 1]}, "no_rope_layers: expected 4 times 0 or 1"),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [0, 1, 2, 1]}, "no_rope_layers"),
        ("SmolLM3ForCausalLM", {"no_rope_layer_interval": 0}, "no_rope_layer_interval"),
    ],
)
def test_what_a_backbone_cannot_do_is_refused(
    architecture: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConversionError, match=message) as caught:
        parsed(architecture, **fields)
    assert "\n" not in str(caught.value)
