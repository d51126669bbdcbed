"""Sources that cannot be used: one clear line each, whatever the bytes, and no checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.model.convert.builders import (
    TEMPLATE,
    THINK,
    VOCAB,
    no_memory,
    random_weights,
    tiny_backbone,
    write_folder,
    write_gguf,
)
from torch import Tensor

from hope_model.attention.backbone import tensor_shapes
from hope_model.convert.convert import convert
from hope_model.errors import ConversionError

SHAPES = tensor_shapes(tiny_backbone(layers=1))


def refused(reference: Path, message: str) -> None:
    """Converting raises ConversionError with ``message`` on one line, and leaves nothing behind."""
    parent = reference.parent / "outs"
    parent.mkdir(exist_ok=True)
    with pytest.raises(ConversionError, match=message) as caught:
        convert(str(reference), out=parent / "out", calibrate=no_memory)
    assert "\n" not in str(caught.value)
    assert caught.value.code == "conversion_failed"
    assert not list(parent.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "source", random_weights(SHAPES), num_hidden_layers=1)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def test_the_folder_is_fine_without_damage(folder: Path) -> None:
    assert convert(str(folder), out=folder.with_name("out"), calibrate=no_memory).fresh


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, name.replace(".", r"\."))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b"\xff", b"[" * 200_000, b'{"a": ' + b"9" * 5000 + b"}"], ids=range(6)
)
def test_settings_that_are_not_json_are_refused(folder: Path, name: str, raw: bytes) -> None:
    (folder / name).write_bytes(raw)
    refused(folder, "expected")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"]
)
def test_a_huge_file_is_refused(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as file:
        file.truncate((32 << 20) + 1)
    refused(folder, rf"{name}: expected at most \d+ bytes".replace(".json", r"\.json"))


@settings(max_examples=30)
@given(data=st.data())
def test_a_truncated_shard_is_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_folder(
        tmp_path_factory.mktemp("t") / "source", random_weights(SHAPES), num_hidden_layers=1
    )
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    refused(folder, r"model\.safetensors: cannot be read")


def test_the_index_must_name_files_that_are_there(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys(weights, "a.safetensors") | {"x": "b.safetensors"}})
    )
    refused(folder, r"b\.safetensors: the index names this file, but it is missing")
    index.write_text(json.dumps({"weight_map": {"x": "../source/a.safetensors"}}))
    refused(folder, r"expected names of safetensors, found '\.\./source/a\.safetensors'")
    index.write_text(json.dumps({"weight_map": []}))
    refused(folder, "weight_map: expected files by tensor")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(weights, "a.safetensors")}))
    assert convert(str(folder), out=folder.with_name("out"), calibrate=no_memory).fresh


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_not_opened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, "expected safetensors, found pickles, which are never opened")
    file = (folder / name).rename(folder.with_name(name))
    refused(file, "expected safetensors, found a pickle, which is never opened")


def test_other_references_are_refused(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "expected a folder, a .gguf file or a known model, found none")
    refused(folder / "model.safetensors", "expected the folder of the model")
    refused(folder / "config.json", "found another file")


@pytest.mark.parametrize("reference", ["", "a" * 300, "~nobody-of-this-name/model", "a\0b", "/proc/1/mem"])
def test_odd_references_are_one_clear_line(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as caught:
        convert(reference, out=tmp_path / "out", calibrate=no_memory)
    assert "\n" not in str(caught.value)


NAME = "model.layers.0.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop(NAME), rf"'{NAME}': expected shape \[32, 64\], found no such tensor"),
        (
            lambda w: w.update({NAME: torch.zeros(32, 65)}),
            r"expected shape \[32, 64\], found shape \[32, 65\]",
        ),
        (lambda w: w.update({"model.extra": torch.zeros(1)}), "'model.extra': expected no such tensor"),
        (lambda w: w[NAME][3].fill_(float("nan")), rf"'{NAME}': expected finite values"),
        (lambda w: w[NAME][3].fill_(float("-inf")), rf"'{NAME}': expected finite values"),
        (lambda w: w.update({NAME: w[NAME].to(torch.int8)}), "expected floating point, found I8"),
        (lambda w: w.update({NAME: w[NAME].to(torch.float8_e4m3fn)}), "expected floating point, found F8"),
    ],
)
def test_tensors_that_do_not_do_are_named(
    folder: Path, edit: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit_weights(folder, edit)
    refused(folder, message)


def test_values_beyond_the_type_are_refused(folder: Path) -> None:
    """Finite in the file, infinite in what would be written."""
    edit_weights(folder, lambda weights: weights[NAME][0].fill_(3.4e38))
    refused(folder, "expected finite values")


def test_more_layers_than_tensors_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=1 << 24)
    refused(folder, "expected tensors of 16777216 layers")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": VOCAB, "content": "<new>"})
    content["model"]["vocab"]["<new>"] = VOCAB
    think = next(token for token in content["added_tokens"] if token["content"] == THINK)
    content["model"]["vocab"][THINK] = think["id"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refused(folder, "tokenizer: expected ids below the model's 320, found 320")


def test_an_end_beyond_the_vocabulary_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", eos_token_id=VOCAB)
    refused(folder, "token id: expected 0 to 319, found 320")
    edit_json(folder / "config.json", eos_token_id=None)
    refused(folder, "eos_token_id: expected the id that ends a turn")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for x in y %}", "chat template: line 1: Unexpected end of template"),
        ("ok\n{{ x | no_such_filter }}", "chat template: line 2: No filter named 'no_such_filter'"),
        ("{{ (" * 5000, "chat template: "),
    ],
)
def test_a_template_that_does_not_compile_is_refused(folder: Path, template: str, message: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    refused(folder, message)


def test_half_a_surrogate_pair_is_no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "\ud800" + TEMPLATE}))
    refused(folder, "chat template: expected valid Unicode")


@pytest.mark.parametrize(
    "template",
    [
        "{% generation %}{{ message }}{% endgeneration %}",
        "{% for x in y %}{% if x %}{% break %}{% endif %}{% endfor %}",
        "{{ raise_exception('no') }}{{ x | tojson }}",
        "{{ 'a' * 10 ** 12 }}{% set y = 9 ** 9 ** 9 ** 9 %}{{ 'x' | center(10 ** 12) }}",
    ],
)
def test_a_template_is_compiled_but_not_run(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    assert convert(str(folder), out=folder.with_name("out"), calibrate=no_memory).fresh


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    backbone = tiny_backbone(layers=1)
    return write_gguf(path, backbone, random_weights(SHAPES), kind="Q8_0").read_bytes()


def header_bytes(raw: bytes) -> int:
    """Up to the last tensor's entry, at least."""
    return raw.index(b"output_norm.weight") if b"output_norm.weight" in raw else len(raw)


@settings(max_examples=80)
@given(data=st.data())
def test_a_truncated_gguf_is_refused(data: st.DataObject, gguf: bytes, tmp_path: Path) -> None:
    within_header = st.integers(0, header_bytes(gguf))
    length = data.draw(within_header | st.integers(0, len(gguf) - 1))
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf[:length])
    refused(path, r"cut\.gguf: .*(truncated|cannot be read)")


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_gguf_is_refused_or_read(data: st.DataObject, gguf: bytes, tmp_path: Path) -> None:
    """Any byte of the header may be any other: no crash, no endless loop, no checkpoint of part of it."""
    raw = bytearray(gguf)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, header_bytes(gguf) + 80))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(raw)
    parent = tmp_path / "outs"
    parent.mkdir(exist_ok=True)
    try:
        out = convert(str(path), out=parent / "out", calibrate=no_memory).path
    except ConversionError:
        pass
    else:
        assert (out / "config.json").exists()
        shutil.rmtree(out)
    assert not list(parent.iterdir())


@pytest.mark.parametrize("count", [b"\xff" * 8, (1 << 40).to_bytes(8, "little")])
def test_counts_of_a_gguf_are_not_believed(count: bytes, gguf: bytes, tmp_path: Path) -> None:
    path = tmp_path / "counts.gguf"
    at = gguf.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    for position in (8, 16, at):
        path.write_bytes(gguf[:position] + count + gguf[position + 8 :])
        refused(path, "expected at most")


def test_another_file_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGML" + bytes(100))
    refused(path, "expected a GGUF file")
    path.write_bytes(b"GGUF" + (1).to_bytes(4, "little") + bytes(100))
    refused(path, "expected GGUF version 2 or 3, found 1")
