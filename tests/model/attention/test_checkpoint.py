"""Converted checkpoints: they come back as they were written; damaged ones are a CheckpointError."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.model.attention.test_config import JUNK, places
from tests.model.attention.tiny import Text, alone, level, memory_config, writes_of
from tests.model.convert.builders import (
    EOS,
    LAYERS,
    TEMPLATE,
    VOCAB,
    random_weights,
    tiny_backbone,
    tiny_tokenizer,
    write_folder,
)
from tests.model.damage import DAMAGES, cut_short, damage

from hope_model.attention import calibrate as calibration
from hope_model.attention.backbone import tensor_shapes
from hope_model.attention.calibrate import calibrate
from hope_model.attention.checkpoint import (
    MAX_TEMPLATE_BYTES,
    attention_weights_sha256,
    load_attention_checkpoint,
)
from hope_model.attention.config import HopeAttentionConfig
from hope_model.attention.memory import CANARY_START, CANARY_TOKENS, memory_shapes
from hope_model.attention.model import HopeAttention
from hope_model.attention.prompts import OPENINGS, QUESTIONS
from hope_model.checkpoint import MAX_CONFIG_BYTES, family_of
from hope_model.convert.convert import convert
from hope_model.errors import CheckpointError

NAME = "memory.layers.3.down_proj.subspace"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `hope convert` makes of a tiny folder, with a calibration over a few short texts."""
    root = tmp_path_factory.mktemp("attention")
    source = write_folder(root / "source", random_weights(tensor_shapes(tiny_backbone())))
    memory = memory_config(level(first_layer=2, last_layer=LAYERS - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "OPENINGS", OPENINGS[:3])
        patch.setattr(calibration, "QUESTIONS", QUESTIONS[:8])
        patch.setattr(calibration, "ANSWER_TOKENS", 12)
        own = partial(calibrate, memory=memory)
        return convert(str(source), out=root / "tiny", calibrate=own).path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "tiny")


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def test_a_checkpoint_comes_back_as_it_was_written(saved: Path) -> None:
    content, weights = json.loads((saved / "config.json").read_text()), load_file(saved / "model.safetensors")
    checkpoint = load_attention_checkpoint(saved)
    model = checkpoint.model
    assert model.config == HopeAttentionConfig.from_dict(content["model"])
    assert model.config.backbone == tiny_backbone(norm_epsilon=1e-5)
    shapes = {**tensor_shapes(model.config.backbone), **memory_shapes(model.config)}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == shapes
    assert torch.equal(model.backbone.embedding, weights["model.embed_tokens.weight"])
    assert torch.equal(model.backbone.layers[3].down.weight, weights["model.layers.3.mlp.down_proj.weight"])
    geometry = model.memory.geometry["layers.3.down_proj"]
    assert torch.equal(geometry.subspace.weight, weights[NAME].bfloat16())
    assert torch.equal(geometry.outputs, weights["memory.layers.3.down_proj.output_moment"])
    assert (checkpoint.chat_template, checkpoint.add_bos) == (TEMPLATE, False)
    assert (checkpoint.tokenizer.eos_ids, checkpoint.tokenizer.bos_id) == (frozenset({EOS}), None)
    assert checkpoint.tokenizer.encode("the cat") == tiny_tokenizer().encode("the cat").ids
    assert family_of(saved) == "hope_attention"


def test_a_loaded_model_reads_as_one_that_is_built(saved: Path) -> None:
    """The file in bf16 and in fp32, to the bit."""
    config = HopeAttentionConfig.from_dict(json.loads((saved / "config.json").read_text())["model"])
    tokens = torch.randint(VOCAB, (1, 40))
    for dtype in (torch.bfloat16, torch.float32):
        built = HopeAttention(config, load_file(saved / "model.safetensors"), dtype=dtype)
        loaded = load_attention_checkpoint(saved, dtype=dtype).model
        assert loaded.backbone.dtype is dtype
        assert torch.equal(loaded.forward(tokens), built.forward(tokens))
        assert attention_weights_sha256(loaded) == attention_weights_sha256(built)


def test_a_loaded_model_learns(saved: Path) -> None:
    model = load_attention_checkpoint(saved).model
    text = Text(tuple(range(3, 195)), ("user",) * 192)
    before = attention_weights_sha256(model)
    sessions = alone(model, text)
    assert writes_of(sessions.rows, 0) == ((2,), (0,))
    assert sessions.rows.drift(0)["fast"] > 0
    assert attention_weights_sha256(model) == before


def test_a_loaded_model_does_not_depend_on_its_file_any_more(folder: Path) -> None:
    model, path = load_attention_checkpoint(folder).model, folder / "model.safetensors"
    before = attention_weights_sha256(model)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
    assert attention_weights_sha256(model) == before


def test_the_hash_changes_with_any_weight_and_with_the_configuration(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    content = json.loads((saved / "config.json").read_text())["model"]
    config = HopeAttentionConfig.from_dict(content)
    canaries = weights[CANARY_TOKENS].clone()
    weights[CANARY_TOKENS].fill_(-1)  # what they are for theta changes with any other weight

    def digest() -> str:
        return attention_weights_sha256(HopeAttention(config, weights))

    seen = {digest()}
    # Of the layers, the last one stands for all.
    chosen = [name for name in weights if not name.startswith("model.layers.") or ".3." in name]
    chosen = [name for name in chosen if not name.startswith("memory.canary")]
    for name in chosen:
        tensor = weights[name].view(-1)
        kept = tensor[-1].clone()
        tensor[-1] += 1
        seen.add(digest())
        tensor[-1] = kept
    assert len(seen) == len(chosen) + 1
    other = canaries.clone()
    other[-1, 0] = 3 if other[-1, 0] != 3 else 4
    for texts in (canaries, canaries.flip(0), other):
        weights[CANARY_TOKENS] = texts
        assert digest() not in seen
        seen.add(digest())
    weights[CANARY_START] += 1
    assert digest() not in seen
    content["memory"]["levels"][0]["rounds"] += 1
    config = HopeAttentionConfig.from_dict(content)
    assert digest() not in seen


def test_the_template_may_be_absent(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert load_attention_checkpoint(folder).chat_template is None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_named(folder: Path, name: str, kind: str) -> None:
    damage(folder / name, kind)
    with pytest.raises(CheckpointError, match=name):
        load_attention_checkpoint(folder)


def test_every_cut_of_the_weights_is_noticed(folder: Path) -> None:
    for _ in cut_short(folder / "model.safetensors"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_attention_checkpoint(folder)


@pytest.mark.parametrize("damage", ["folder", "bytes", "large"])
def test_a_template_that_cannot_be_one_is_named(folder: Path, damage: str) -> None:
    path = folder / "chat_template.jinja"
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\xff\xfe" if damage == "bytes" else b" " * (MAX_TEMPLATE_BYTES + 1))
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: "):
        load_attention_checkpoint(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(family="hope"), "expected format 1 of family 'hope_attention'"),
        (lambda data: data.update(format=2), "expected format 1"),
        (lambda data: data.pop("family"), "expected format 1"),
        (lambda data: data.pop("model"), "model"),
        (lambda data: data.update(model=None), "HopeAttentionConfig: expected fields by name"),
        (lambda data: data["model"]["memory"].update(levels=[]), "levels: expected one at least"),
        (lambda data: data["model"]["memory"].update(delay=1), "delay: expected a multiple of 64"),
        (lambda data: data["model"]["backbone"].update(layers=5), "found no such tensor"),
        (
            lambda data: data["model"]["backbone"].update(layers=1 << 24),
            "expected tensors of 16777216 layers",
        ),
        (lambda data: data["model"]["backbone"].update(tied_head=False), r"'lm_head\.weight'"),
        (lambda data: data["model"]["backbone"].update(qk_norm=True), "found no such tensor"),
        (lambda data: data["model"]["memory"]["levels"][0].update(rank=3), "does not match its config"),
        (lambda data: data["model"]["memory"]["levels"][0].update(first_layer=3), "no such tensor, found"),
        (lambda data: data["model"]["backbone"].update(vocab_size=VOCAB + 1), "does not match its config"),
        (lambda data: data["model"]["backbone"].update(vocab_size=200), "tokenizer|vocab|ids"),
        (lambda data: data.pop("tokens"), "tokens"),
        (lambda data: data.update(tokens=[]), "tiny"),
        (lambda data: data["tokens"].pop("eos"), "eos"),
        (lambda data: data["tokens"].update(eos=2), "tiny"),
        (lambda data: data["tokens"].update(eos="2"), "expected ids in eos and bos"),
        (lambda data: data["tokens"].update(eos=[True]), "expected ids in eos and bos"),
        (lambda data: data["tokens"].update(eos=[VOCAB]), "tiny"),
        (lambda data: data["tokens"].update(bos="1"), "expected ids in eos and bos"),
        (lambda data: data["tokens"].update(bos=-1), "tiny"),
        (lambda data: data["tokens"].pop("add_bos"), "add_bos"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    folder: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_config(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load_attention_checkpoint(folder)


@pytest.mark.parametrize(
    "text", ["[]", "5", '"hope"', "null", "[" * 100_000, "9" * 5000, " " * MAX_CONFIG_BYTES + "{}"]
)
def test_a_config_that_is_something_else_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_attention_checkpoint(folder)


@settings(max_examples=60)
@given(data=st.data(), junk=JUNK)
def test_junk_in_the_config_is_a_checkpoint_error(saved: Path, data: st.DataObject, junk: Any) -> None:
    """Tried on one folder, whose config is put back: what else it holds is not read before."""
    original = (saved / "config.json").read_text()
    content: Any = json.loads(original)
    *path, last = data.draw(st.sampled_from(places(content)[1:]))
    inner = content
    for key in path:
        inner = inner[key]
    inner[last] = junk
    try:
        (saved / "config.json").write_text(json.dumps(content))
        load_attention_checkpoint(saved)
    except CheckpointError:
        pass
    finally:
        (saved / "config.json").write_text(original)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [NAME, "model.layers.1.mlp.up_proj.weight"])
def test_a_weight_that_is_not_finite_is_named(folder: Path, name: str, value: float) -> None:
    edit_weights(folder, lambda weights: weights[name][0, 0].fill_(value))
    with pytest.raises(CheckpointError, match=f"'{name}' holds values that are not"):
        load_attention_checkpoint(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.pop(NAME), "expected .*, found no such tensor"),
        (lambda weights: weights.update(extra=torch.zeros(2)), "'extra': expected no such tensor, found"),
        (lambda weights: weights.update({"model.norm.weight": torch.ones(15)}), r"found \[15\]"),
        (lambda weights: weights["memory.canary.tokens"].fill_(VOCAB), "expected canary texts of 320"),
        (lambda weights: weights["memory.canary.start"].fill_(-1), "expected canary texts of 320"),
    ],
    ids=["missing", "extra", "shape", "canary", "start"],
)
def test_weights_that_do_not_fit_are_named(
    folder: Path, edit: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    edit_weights(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load_attention_checkpoint(folder)
