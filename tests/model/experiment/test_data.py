"""The split of the text: no document on both sides, the same whenever it is made."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.model.experiment.tiny import SETTINGS, tiny_tokenizer

from hope_model.errors import DataError
from hope_model.experiment.data import heldout_rows, prepare
from hope_model.experiment.runner import Places
from hope_model.train.shards import read_rows


def _texts(path: Path) -> list[str]:
    return [row.text for row in read_rows(path)]


def test_documents_are_on_one_side_each(places: Places) -> None:
    assert places.data is not None
    data = prepare(places.data, places.work, SETTINGS)
    assert len(data.train) == len(data.heldout) == 10
    for train, heldout in zip(data.train, data.heldout, strict=True):
        whole = _texts(places.data / f"{train.name}.00.jsonl.zst")
        kept, out = _texts(train.shards[0]), _texts(heldout.shards[0])
        assert set(kept) | set(out) <= set(whole)
        assert not set(kept) & set(out)
        assert train.weight == heldout.weight
    assert sum(len(_texts(source.shards[0])) for source in data.heldout) > 10


def test_the_split_is_a_function_of_the_text(places: Places) -> None:
    one = prepare(places.data, places.work / "a", SETTINGS)
    other = prepare(places.data, places.work / "b", SETTINGS)
    for source, again in zip((*one.train, *one.heldout), (*other.train, *other.heldout), strict=True):
        assert _texts(source.shards[0]) == _texts(again.shards[0])


def test_heldout_rows_hold_heldout_text_of_every_set(places: Places) -> None:
    data, tokenizer = prepare(places.data, places.work, SETTINGS), tiny_tokenizer()
    rows = heldout_rows(data, tokenizer, SETTINGS)
    assert sum(weight for _, weight, _ in rows) == pytest.approx(1)
    assert {name: len(tokens) for name, _, tokens in rows if "gutenberg" in name} == {
        "gutenberg_adult": 2,
        "gutenberg_child": 2,
    }
    assert all(tokens.shape[1] == SETTINGS.evaluation.heldout_tokens + 1 for _, _, tokens in rows)
    text = "\n".join(_texts(data.heldout[0].shards[0]))
    assert all(tokenizer.decode(row[:20].tolist()).partition("<|")[0] in text for row in rows[0][2])


def test_too_little_heldout_text_is_said(places: Places) -> None:
    long = replace(SETTINGS, evaluation=replace(SETTINGS.evaluation, heldout_tokens=100_000))
    data = prepare(places.data, places.work, long)
    with pytest.raises(DataError, match=r"held-out text: expected 100001 tokens"):
        heldout_rows(data, tiny_tokenizer(), long)


def test_a_broken_record_is_named(places: Places) -> None:
    prepare(places.data, places.work, SETTINGS)
    (places.work / "prepared.json").write_text("{")
    with pytest.raises(DataError, match=r"prepared.json: cannot be read"):
        prepare(places.data, places.work, SETTINGS)


def test_split_text_needs_no_sets(places: Places) -> None:
    made = prepare(places.data, places.work, SETTINGS)
    assert places.data is not None
    shutil.rmtree(places.data)
    assert prepare(None, places.work, SETTINGS) == made
    with pytest.raises(DataError, match=r"expected text split from these shards with these settings"):
        prepare(None, places.work, replace(SETTINGS, tokens=SETTINGS.tokens + 1))


def test_neither_split_text_nor_sets_is_said(places: Places) -> None:
    with pytest.raises(DataError, match=r"expected text that was split before, or a folder of sets to split"):
        prepare(None, places.work, SETTINGS)
