"""Folders in Hugging Face's layout: what transformers saved comes out with its names, shapes and values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.convert.builders import (
    EOS,
    HEAD_WIDTH,
    HEADS,
    KV_HEADS,
    LAYERS,
    MLP_WIDTH,
    TEMPLATE,
    VOCAB,
    WIDTH,
    no_memory,
    random_weights,
    read_checkpoint,
    same,
    tiny_backbone,
    tiny_tokenizer,
    write_folder,
)

from hope_model.attention.backbone import tensor_shapes
from hope_model.attention.config import BackboneConfig
from hope_model.convert.convert import convert
from hope_model.convert.source import TurnTokens
from hope_model.errors import ConversionError
from hope_model.pretrained_tokenizer import PretrainedTokenizer

MODELS: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": False},
    "Llama-tied-biased": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 2 * HEAD_WIDTH},
    "Qwen3-biased": {"attention_bias": True},
    "SmolLM3": {"no_rope_layers": [1, 0, 1, 0]},
}
EXPECTED: dict[str, dict[str, Any]] = {
    "Llama": {"tied_head": False},
    "Llama-tied-biased": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "Qwen2": {"qkv_bias": True},
    "Qwen3": {"qk_norm": True, "tied_head": False, "head_width": 2 * HEAD_WIDTH},
    "Qwen3-biased": {
        "qk_norm": True,
        "tied_head": False,
        "head_width": 128,
        "qkv_bias": True,
        "output_bias": True,
    },
    "SmolLM3": {"no_rope_layers": (1, 3), "norm_epsilon": 1e-6},
}


def save(folder: Path, case: str, **saving: Any) -> dict[str, torch.Tensor]:
    """Save a random model as transformers does; returns its parameters by name."""
    import transformers

    family = case.partition("-")[0]
    torch.manual_seed(5)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        intermediate_size=MLP_WIDTH,
        eos_token_id=EOS,
        bos_token_id=1,
        pad_token_id=EOS,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        **{"rms_norm_eps": 1e-5, **MODELS[case]} if family != "SmolLM3" else MODELS[case],
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms are constants when they are new
            parameter.normal_()
    model.save_pretrained(folder, **saving)
    (folder / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("case", MODELS)
def test_a_saved_model_comes_out_as_it_is(case: str, tmp_path: Path) -> None:
    expected = save(tmp_path / "source", case)
    out = convert(str(tmp_path / "source"), out=tmp_path / "out", calibrate=no_memory, dtype="float32").path
    config, weights = read_checkpoint(out)
    backbone = tiny_backbone(**{"rope_theta": 5000.0, "norm_epsilon": 1e-5, **EXPECTED[case]})
    assert BackboneConfig.from_dict(config["model"]["backbone"]) == backbone
    if backbone.tied_head:
        del expected["lm_head.weight"]
    assert same(weights, expected)
    assert {name: tuple(tensor.shape) for name, tensor in expected.items()} == tensor_shapes(backbone)


def test_shards_and_rounding(tmp_path: Path) -> None:
    expected = save(tmp_path / "source", "Llama", max_shard_size="50KB")
    assert len(list((tmp_path / "source").glob("model-*.safetensors"))) > 3
    out = convert(str(tmp_path / "source"), out=tmp_path / "out", calibrate=no_memory).path
    _, weights = read_checkpoint(out)
    assert same(weights, {name: tensor.bfloat16() for name, tensor in expected.items()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "source", random_weights(tensor_shapes(tiny_backbone())))


def converted(folder: Path) -> dict[str, Any]:
    out = convert(str(folder), out=folder.with_name("out"), calibrate=no_memory).path
    config: dict[str, Any] = json.loads((out / "config.json").read_text())
    return config


def test_the_whole_checkpoint(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\nA model.\n")
    out = convert(str(folder), out=tmp_path / "out", calibrate=no_memory, name="tiny").path
    config, _ = read_checkpoint(out)
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    }
    assert (config["format"], config["family"]) == (1, "hope_attention")
    assert (config["model"]["name"], config["model"]["memory"]) == ("tiny", {"levels": []})
    assert config["tokens"] == {"eos": [EOS], "bos": None, "add_bos": False}
    source = config["source"]
    assert (source["kind"], source["name"], source["licence"]) == ("folder", "source", "apache-2.0")
    assert str(tmp_path) not in json.dumps(config)
    assert (out / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    assert (out / "chat_template.jinja").read_text() == TEMPLATE


def test_what_follows_from_other_tensors_is_left_out(folder: Path) -> None:
    weights = random_weights(tensor_shapes(tiny_backbone()))
    spare = {"lm_head.weight": torch.ones(VOCAB, WIDTH), "model.rotary_emb.inv_freq": torch.ones(8)}
    save_file({**weights, **spare}, folder / "model.safetensors")
    converted(folder)
    _, found = read_checkpoint(folder.with_name("out"))
    assert found.keys() == weights.keys()


def test_every_id_that_ends_a_turn_counts(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
    assert converted(folder)["tokens"]["eos"] == [0, 7, 2]


@pytest.mark.parametrize(("setting", "added"), [({}, True), ({"add_bos_token": False}, False)])
def test_a_first_token_is_found_by_the_tokenizer(folder: Path, setting: dict[str, bool], added: bool) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>", **setting}))
    assert converted(folder)["tokens"] == {"eos": [EOS], "bos": 1, "add_bos": added}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("{{ 'one' }}", "{{ 'one' }}"),
        ([{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        (None, None),
    ],
    ids=["text", "list", "none"],
)
def test_the_template_may_be_in_the_tokenizers_settings(
    folder: Path, setting: object, expected: str | None
) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": setting}))
    converted(folder)
    written = folder.with_name("out") / "chat_template.jinja"
    assert (written.read_text() if written.exists() else None) == expected


def test_the_calibration_sees_the_model_as_it_is_served(folder: Path) -> None:
    seen: dict[str, Any] = {}

    def chat(template: str, tokenizer: PretrainedTokenizer, tokens: TurnTokens) -> Callable[[str], list[int]]:
        assert (template, tokens.eos, list(tokenizer.eos_ids)) == (TEMPLATE, (EOS,), [EOS])
        return lambda question: tokenizer.encode_template(f"<|im_start|>{question}<|im_end|>")

    def calibrate(
        backbone: BackboneConfig,
        weights: Mapping[str, torch.Tensor],
        encode: Any,
        progress: Any,
        *,
        chat: Any,
    ) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
        seen.update(backbone=backbone, weights=dict(weights), chat=chat("the"), plain=encode("the<|im_end|>"))
        progress(0.5)
        return {"rank": 3}, {"memory.scale": torch.full((3,), 0.5)}

    steps: list[tuple[str, int, int]] = []
    out = convert(
        str(folder),
        out=folder.with_name("out"),
        calibrate=calibrate,
        chat=chat,
        progress=lambda step, done=0, total=0: steps.append((step, done, total)),
    ).path
    config, weights = read_checkpoint(out)
    assert config["model"]["memory"] == {"rank": 3}
    assert seen["backbone"] == tiny_backbone(norm_epsilon=1e-5)
    assert same(weights, seen["weights"])
    assert (seen["chat"][0], seen["chat"][-1]) == (1, EOS)
    assert EOS not in seen["plain"]
    assert ("calibrating the memory", 50, 100) in steps


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.norm.weight": torch.ones(3)}, r"'model\.norm\.weight': expected a name that the backbone"),
        ({"memory.x": torch.tensor([float("nan")])}, r"'memory\.x': expected finite values"),
        ({"memory.x": torch.zeros(1, dtype=torch.complex64)}, "expected a type that can be saved"),
    ],
)
def test_what_the_calibration_gives_is_checked(
    folder: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(str(folder), out=folder.with_name("out"), calibrate=lambda *_, **__: ({}, tensors))


def header_end(header: dict[str, Any]) -> int:
    """Bytes of data that the header of a safetensors file speaks of."""
    return max(int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__")


@pytest.mark.parametrize("suffix", ["", "-", "--"])
def test_tensors_of_every_type_and_shape_are_written_as_they_are(folder: Path, suffix: str) -> None:
    """Odd sizes beside two-byte weights: each tensor still starts where its type may start."""
    extra = {
        "memory.a": torch.arange(3, dtype=torch.uint8),
        "memory.b": torch.tensor(1.5, dtype=torch.float64),
        "memory.c": torch.arange(6, dtype=torch.int64).reshape(2, 3).T,
        "memory.d": torch.ones(5, dtype=torch.float16),
        "memory.e": torch.zeros(0, 4),
        f"memory.f{suffix}": torch.tensor([True, False, True]),
    }
    out = convert(str(folder), out=folder.with_name("out"), calibrate=lambda *_, **__: ({}, extra)).path
    path = out / "model.safetensors"
    found = load_file(path)
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    for name, tensor in found.items():
        start = len(raw) - header_end(header) + header[name]["data_offsets"][0]
        assert start % tensor.element_size() == 0
    assert same({name: tensor for name, tensor in found.items() if name.startswith("memory.")}, extra)
