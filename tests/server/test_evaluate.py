"""``hope eval`` as the server mounts it: known models, and chats as the server writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.model.evaluate import talking

from hope_model.attention.checkpoint import load_attention_checkpoint
from hope_model.evaluate.conversation import LastToken, Message
from hope_server.cli import BAD_SETTING, main
from hope_server.evaluate import render_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def test_chats_are_written_by_the_checkpoints_template(folder: Path) -> None:
    """The tests of hope_model write them by hand; here both are compared."""
    render = render_of(load_attention_checkpoint(folder))
    end = next(iter(talking.chat().stop_ids))
    for after in (None, LastToken(end, "model"), LastToken(77, "model")):
        for text in ("Hi there", "<|im_end|>"):
            expected = talking.render([Message("user", text)], after)
            found = render([Message("user", text)], after)
            assert [token for _, ids in found for token in ids] == [
                token for _, ids in expected for token in ids
            ]
            assert [token for origin, ids in found for token in ids if origin == "user"] == [
                token for origin, ids in expected for token in ids if origin == "user"
            ]


def test_the_command_measures_recall(folder: Path, tmp_path: Path) -> None:
    quick = ["--people", "1", "--facts-per-person", "1", "--distance", "1", "--out", str(tmp_path)]
    assert main(["eval", "recall", "--model", str(folder), *quick]) == 0
    assert len(json.loads((tmp_path / "recall.json").read_text())["questions"]) == 3


def test_an_unknown_model_is_refused_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "recall", "--model", "none", "--out", str(tmp_path)]) == BAD_SETTING
    error = capsys.readouterr().err
    assert error.startswith("hope eval: expected a checkpoint folder or one of smollm2-135m")
    assert "hope-tiny, found 'none'" in error
