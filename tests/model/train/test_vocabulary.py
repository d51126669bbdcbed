"""Where a run's tokenizer comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from hope_model.errors import TokenizerError
from hope_model.tokenizer import Tokenizer
from hope_model.train import vocabulary
from hope_model.train.mixture import Source
from hope_model.train.vocabulary import tokenizer_for

Sources = tuple[Source, ...]


def test_one_is_trained_on_the_data_and_kept(sources: Sources, tmp_path: Path) -> None:
    trained = tokenizer_for("test", sources, None, tmp_path / "run")
    assert trained.vocab_size == 300
    assert Tokenizer.load(tmp_path / "run" / "tokenizer.json").sha256() == trained.sha256()


def test_the_one_of_the_run_is_used_again(sources: Sources, tokenizer: Tokenizer, tmp_path: Path) -> None:
    other = Tokenizer.train([(Path(__file__)).read_text(encoding="utf-8")], 300)
    other.save(tmp_path / "tokenizer.json")
    assert tokenizer_for("test", sources, None, tmp_path).sha256() == other.sha256() != tokenizer.sha256()


def test_a_given_one_comes_first(sources: Sources, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "given.json")
    found = tokenizer_for("transformer-test", sources, tmp_path / "given.json", tmp_path / "run")
    assert found.sha256() == tokenizer.sha256()


def test_another_size_is_refused(sources: Sources, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "given.json")
    with pytest.raises(TokenizerError, match="expected 8192 tokens, found 300"):
        tokenizer_for("hope-tiny", sources, tmp_path / "given.json", tmp_path)


def test_each_set_gives_its_share_of_the_sample(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "SAMPLE_CHARACTERS", 400)
    sources: list[Source] = []
    seen: list[str] = []
    for letter, weight in (("a", 0.75), ("b", 0.25)):
        path = tmp_path / f"{letter}.jsonl"
        path.write_text((json.dumps({"text": letter * 70}) + "\n") * 9)
        sources.append(Source(letter, "text", weight, (path,)))

    def collected(texts: Iterable[str], size: int) -> Tokenizer:
        seen.append("".join(texts))
        return tokenizer

    monkeypatch.setattr(Tokenizer, "train", collected)
    tokenizer_for("test", sources, None, tmp_path)
    assert seen == ["a" * 300 + "b" * 100]
