"""Checkpoints to go on from: kept, compared with what is asked, refused when they are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hope_model.errors import DataError, TrainError
from hope_model.tokenizer import Tokenizer
from hope_model.train.mixture import Source
from hope_model.train.settings import TrainSettings
from hope_model.train.trainer import train

Run = Callable[..., None]
PARTS = ("lanes-0.json", "lanes-0.safetensors", "model.safetensors", "optimizer.safetensors")
CHANGES: dict[str, Any] = {
    "model": "transformer-test",
    "rule": "gated",
    "levels": "none",
    "parameters": 100_000,
    "tokens": 840,
    "rows": 2,
    "window": 80,
    "reset_probability": 0.1,
    "learning_rate": 1e-3,
    "warmup": 3,
    "final_rate": 0.1,
    "weight_decay": 0.0,
    "clip_norm": 2.0,
    "seed": 2,
    "precision": "bfloat16",
    "save_every": 2,
}


def test_the_last_two_checkpoints_are_kept(train_in: Run, tmp_path: Path) -> None:
    train_in(tmp_path, save_every=1)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-5", "step-6"]


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_with_other_settings_is_refused(
    train_in: Run, finished: Path, settings: TrainSettings, name: str
) -> None:
    saved = getattr(settings, name)
    with pytest.raises(
        TrainError, match=f"other settings: {name}: saved {saved!r}, asked {CHANGES[name]!r}$"
    ):
        train_in(finished, **{name: CHANGES[name]})


def test_every_setting_is_compared(settings: TrainSettings) -> None:
    assert settings.to_dict().keys() == {*CHANGES, "rule_options"}


def test_a_rule_s_other_options_are_refused(train_in: Run, finished: Path) -> None:
    """They stand beside another rule: the saved one has none."""
    with pytest.raises(TrainError, match="rule_options: saved '', asked 'momentum=off'"):
        train_in(finished, rule="titans", rule_options="momentum=off")


def test_a_run_of_other_text_is_refused(
    finished: Path, settings: TrainSettings, sources: tuple[Source, ...], tokenizer: Tokenizer
) -> None:
    with pytest.raises(DataError, match="other shards"):
        train(settings, [replace(sources[0], name="others")], tokenizer, finished)


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]", b'{"step": 6}'])
def test_a_damaged_pointer_is_refused(train_in: Run, finished: Path, content: bytes) -> None:
    (finished / "latest.json").write_bytes(content)
    with pytest.raises(TrainError, match="cannot be resumed"):
        train_in(finished)


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"[]"])
@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_part_is_refused(train_in: Run, finished: Path, name: str, content: bytes | None) -> None:
    part = finished / "step-6" / name
    part.unlink()
    if content is not None:
        part.write_bytes(content)
    with pytest.raises(TrainError, match="cannot be resumed"):
        train_in(finished)


@pytest.mark.parametrize("damage", [{"identity": ""}, {"lanes": [{}]}, {"batches": None}])
def test_a_damaged_position_is_refused(train_in: Run, finished: Path, damage: dict[str, Any]) -> None:
    path = finished / "step-6" / "lanes-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(DataError, match="lanes: "):
        train_in(finished)


@pytest.mark.parametrize("change", ["missing", "another shape", "one more"])
@pytest.mark.parametrize("name", [name for name in PARTS if name.endswith(".safetensors")])
def test_tensors_of_another_model_are_refused(train_in: Run, finished: Path, name: str, change: str) -> None:
    path = finished / "step-6" / name
    tensors = load_file(path)
    first = min(tensors)
    odd = tensors.pop(first)
    new = {"missing": {}, "another shape": {first: odd[:1]}, "one more": {first: odd, "odd/one": odd.clone()}}
    save_file({**tensors, **new[change]}, path)
    with pytest.raises(TrainError, match="cannot be resumed"):
        train_in(finished)
