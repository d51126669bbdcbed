"""transformers as the reference: the same tensors, the same answers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.model.attention import tiny
from tests.model.convert.builders import VOCAB
from tests.model.evaluate import talking

from hope_model.attention.config import RopeScaling
from hope_model.errors import ConfigError
from hope_model.evaluate.reader import ContextReader
from hope_model.evaluate.transformers_reader import TransformersReader, llama_config, load_llama

PROMPT = (5, 9, 200, 31, 7)
ANSWERS = ((3, 4, 5), (8,), (260, 9))


def test_transformers_reads_as_we_do(tmp_path: Path) -> None:
    folder = talking.write_checkpoint(tmp_path / "tiny")
    read = torch.randint(VOCAB, (300,)).tolist()
    theirs = TransformersReader(load_llama(folder, talking.CONFIG, torch.float32))
    ours = ContextReader(talking.model(), 400)
    for reader in (theirs, ours):
        reader.read([("user", read[:100]), ("model", read[100:])])
    for _ in range(2):  # a question changes nothing
        assert theirs.judge(PROMPT, ANSWERS) == pytest.approx(ours.judge(PROMPT, ANSWERS), abs=2e-3)
    whole = ours.answer([PROMPT, (1, 2)], 8, ())
    assert theirs.answer([PROMPT, (1, 2)], 8, ()) == whole
    assert theirs.answer([PROMPT], 8, {whole[0][3]}) == [whole[0][: whole[0].index(whole[0][3])]]


def test_llama_3_is_scaled() -> None:
    backbone = tiny.backbone_config(rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192), rope_theta=500_000.0)
    rope = llama_config(backbone).rope_parameters
    assert rope["rope_type"] == "llama3"
    assert rope["original_max_position_embeddings"] == 8192
    assert rope["factor"] == 8.0


@pytest.mark.parametrize("change", [{"qk_norm": True}, {"qkv_bias": True}, {"no_rope_layers": (1,)}])
def test_other_blocks_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected the blocks of Llama"):
        llama_config(tiny.backbone_config(**change))


def test_without_transformers_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="expected the package transformers, found none"):
        load_llama(tmp_path, replace(talking.CONFIG), torch.float32)
