"""Checkpoints: what was saved comes back, and a damaged or foreign one is refused with its file's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.damage import DAMAGES, cut_short, damage
from tests.model.small import COMBINATIONS, Parts, build, random_tokens, small_config

from hope_model.checkpoint import (
    MAX_CONFIG_BYTES,
    load_checkpoint,
    resolve,
    save_checkpoint,
    slow_weights_sha256,
)
from hope_model.errors import CheckpointError
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer

VOCAB = 262
"""The smallest that a tokenizer can have."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([], VOCAB)


def _model(parts: Parts) -> Hope:
    return build(small_config(parts, vocab_size=VOCAB), torch.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, _model(Parts()), tokenizer, dtype=torch.float32)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def _edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def _edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


@pytest.mark.parametrize("parts", COMBINATIONS, ids=str)
def test_a_checkpoint_comes_back_bit_for_bit(parts: Parts, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Several heads included (hope.md §3.1 row 10): configuration, weights, tokenizer, logits."""
    model = _model(parts)
    save_checkpoint(tmp_path / "new" / "folder", model, tokenizer, dtype=torch.float32)
    loaded, its_tokenizer = load_checkpoint(tmp_path / "new" / "folder")
    assert loaded.config == model.config
    assert slow_weights_sha256(loaded) == slow_weights_sha256(model)
    assert its_tokenizer.sha256() == tokenizer.sha256()
    tokens = random_tokens(1, 20)
    assert torch.equal(loaded(tokens, loaded.initial_state(1))[0], model(tokens, model.initial_state(1))[0])


def test_weights_in_half_the_bytes_come_back_as_they_were_rounded(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = _model(Parts())
    save_checkpoint(tmp_path, model, tokenizer, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    loaded, _ = load_checkpoint(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.bfloat16().float())


def test_a_loaded_model_does_not_depend_on_its_file_any_more(folder: Path) -> None:
    """Slow weights are frozen, whatever is copied over the file while they serve."""
    model, _ = load_checkpoint(folder)
    before, path = slow_weights_sha256(model), folder / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
    assert slow_weights_sha256(model) == before


def test_a_loaded_model_is_frozen_and_real(saved: Path) -> None:
    model, _ = load_checkpoint(saved)
    assert not model.training
    assert not any(weight.requires_grad or weight.is_meta for weight in model.parameters())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_named(folder: Path, name: str, kind: str) -> None:
    damage(folder / name, kind)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_every_cut_of_the_weights_is_noticed(folder: Path) -> None:
    for _ in cut_short(folder / "model.safetensors"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(family="llama"), "expected format 1 of family 'hope'"),
        (lambda data: data.update(format=2), "expected format 1"),
        (lambda data: data.pop("family"), "expected format 1"),
        (lambda data: data.pop("model"), "model"),
        (lambda data: data.update(model=None), "HopeConfig: expected fields by name"),
        (lambda data: data["model"].update(depth=3), r"unknown fields \['depth'\]"),
        (lambda data: data["model"].pop("levels"), "levels"),
        (lambda data: data["model"].update(rule="nope"), "unknown rule 'nope'; known: comba, delta"),
        (
            lambda data: data["model"].update(rule_options={"x": 1}),
            "rule 'delta' has no option x; known: none",
        ),
        (lambda data: data["model"].update(heads=3), "heads: 3 does not divide"),
        (lambda data: data["model"].update(width=24), "does not match its config"),
        (lambda data: data["model"].update(layers=3), "expected .*, found no such tensor"),
        (lambda data: data["model"].update(layers=1), "expected no such tensor, found"),
        (lambda data: data["model"].update(layers=1 << 24), "expected tensors of 50331648 layers and levels"),
        (lambda data: data["model"].pop("rule"), "rule: expected one of comba, delta, .*, found none"),
        (lambda data: data["model"].update(rule="gated"), "does not match its config"),
        (lambda data: data["model"].update(vocab_size=300), "'embedding.weight'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    folder: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    _edit_config(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "text", ["[]", "5", '"hope"', "null", "[" * 100_000, "9" * 5000, " " * MAX_CONFIG_BYTES + "{}"]
)
def test_a_config_that_is_something_else_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(folder: Path, value: float) -> None:
    _edit_weights(folder, lambda weights: weights["blocks.1.mlp.expand.weight"][0, 0].fill_(value))
    with pytest.raises(CheckpointError, match=r"'blocks\.1\.mlp\.expand\.weight' holds values that are not"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.pop("norm.gain"), r"'norm\.gain': expected \[16\], found no such tensor"),
        (lambda weights: weights.update(extra=torch.zeros(2)), "'extra': expected no such tensor, found"),
        (lambda weights: weights.update({"norm.gain": torch.ones(15)}), r"expected \[16\], found \[15\]"),
        (
            lambda weights: weights.update({"norm.gain": torch.ones(16, dtype=torch.int8)}),
            "'norm.gain': expected floating point, found I8",
        ),
        (
            lambda weights: weights.update({"norm.gain": torch.ones(16, dtype=torch.complex64)}),
            "'norm.gain': expected floating point, found C64",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    folder: Path, edit: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    _edit_weights(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = build(small_config(vocab_size=VOCAB + 1), torch.float32)
    save_checkpoint(tmp_path, model, tokenizer, dtype=torch.float32)
    with pytest.raises(CheckpointError, match="expected 263 tokens, found 262"):
        load_checkpoint(tmp_path)


def test_a_name_is_a_folder_or_a_shipped_model(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve("hope-tiny").name == "hope-tiny"
    with pytest.raises(CheckpointError, match=r"one of hope-tiny, found '.*nowhere'"):
        resolve(str(tmp_path / "nowhere"))


def test_the_hash_changes_with_any_weight() -> None:
    model = build(small_config())
    seen = {slow_weights_sha256(model)}
    for weight in model.parameters():
        weight.view(-1)[-1] += 1e-12
        seen.add(slow_weights_sha256(model))
    assert len(seen) == 1 + len(list(model.parameters()))


def test_the_hash_notices_two_weights_exchanged() -> None:
    model = build(small_config())
    before = slow_weights_sha256(model)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    first, second = "blocks.0.mlp_norm.gain", "blocks.1.mlp_norm.gain"
    model.load_state_dict({**weights, first: weights[second], second: weights[first]})
    assert slow_weights_sha256(model) != before


def test_the_hash_depends_on_configuration_and_type() -> None:
    """The same bytes under another schedule, or in another type, are another model."""
    config = small_config()
    other = replace(config, levels=(replace(config.levels[0], period=16), config.levels[1]))
    model, twin = build(config), build(other)
    assert torch.equal(model.embedding.weight, twin.embedding.weight)
    assert slow_weights_sha256(model) != slow_weights_sha256(twin)
    assert slow_weights_sha256(build(config)) == slow_weights_sha256(model)
    assert slow_weights_sha256(build(config, torch.float32)) != slow_weights_sha256(model)
