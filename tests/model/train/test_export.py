"""From a run to a checkpoint to serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hope_model.checkpoint import load_checkpoint
from hope_model.config import HopeConfig
from hope_model.errors import TrainError
from hope_model.tokenizer import Tokenizer
from hope_model.train.export import export_run
from hope_model.train.resume import load_weights
from hope_model.train.settings import TrainSettings


def test_the_newest_weights_are_served(
    finished: Path, config: HopeConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export_run(finished, TrainSettings(model="test"), tokenizer, tmp_path / "out")
    model, loaded = load_checkpoint(tmp_path / "out")
    expected = {name: weight.bfloat16().float() for name, weight in load_weights(finished).items()}
    torch.testing.assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)
    assert model.config == config
    assert loaded.sha256() == tokenizer.sha256()


def test_an_export_is_bf16(finished: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    export_run(finished, TrainSettings(model="test"), tokenizer, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_the_yardstick_is_not_served(finished: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="transformer-test is a yardstick"):
        export_run(finished, TrainSettings(model="transformer-test"), tokenizer, tmp_path / "out")


def test_a_run_of_another_model_is_refused(finished: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="expected weights of hope-tiny"):
        export_run(finished, TrainSettings(model="hope-tiny"), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_run_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no readable checkpoint"):
        export_run(tmp_path, TrainSettings(model="test"), tokenizer, tmp_path / "out")


def test_a_run_without_a_save_is_refused(
    stop_after: Callable[..., None], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    stop_after(tmp_path / "run", 1)
    (tmp_path / "run" / "latest.json").unlink()
    with pytest.raises(TrainError, match="no readable checkpoint"):
        export_run(tmp_path / "run", TrainSettings(model="test"), tokenizer, tmp_path / "out")
