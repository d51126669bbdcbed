"""Shards, dialogues and mixtures: read as they are, or refused by file and row."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hope_model.errors import DataError
from hope_model.train.dialogue import parse_dialogue
from hope_model.train.mixture import builtin_mixture, load_mixture, parse_mixture
from hope_model.train.shards import read_rows

CORE = Path(__file__).parents[3] / "shared" / "pretrain" / "core"


def _write(path: Path, texts: list[str]) -> Path:
    raw = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()
    path.write_bytes(zstandard.ZstdCompressor().compress(raw) if path.suffix == ".zst" else raw)
    return path


def test_every_kind_of_shard_gives_the_same_rows(tmp_path: Path) -> None:
    texts = ["one\ntwo", "☃", "three"]
    shards = [_write(tmp_path / name, texts) for name in ("a.jsonl", "a.jsonl.zst")]
    (tmp_path / "a.txt").write_text("one\ntwo\n<|endoftext|>\n☃\n<|endoftext|>\nthree", encoding="utf-8")
    for shard in [*shards, tmp_path / "a.txt"]:
        assert [row.text.strip() for row in read_rows(shard)] == texts
        assert [row.number for row in read_rows(shard)] == [1, 2, 3]


def test_a_shard_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    parts = [_write(tmp_path / f"{n}.jsonl.zst", [f"{n}{i}" for i in range(300)]) for n in "ab"]
    joined = tmp_path / "joined.jsonl.zst"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert [row.text for row in read_rows(joined)] == [f"{n}{i}" for n in "ab" for i in range(300)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_cut_shard_is_an_error_that_names_it(tmp_path: Path, data: st.DataObject) -> None:
    shard = _write(tmp_path / "cut.jsonl.zst", [f"{i} {i * i}" for i in range(200)])
    raw = shard.read_bytes()
    shard.write_bytes(raw[: data.draw(st.integers(1, len(raw) - 1))])
    with pytest.raises(DataError, match=r"cut\.jsonl\.zst"):
        list(read_rows(shard))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"text": "a"}\n{"text": 5}\n', "row 2: expected an object with a text"),
        (b'{"text": "a"}\n[1]\n', "row 2: expected an object with a text"),
        (b'{"text": "a"}\n{"te', "row 2: expected JSON"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "row 2: expected JSON"),
        (b'{"text": "\\ud800"}\n', "row 1: expected valid Unicode"),
        (b"[" * 100_000, "row 1: expected JSON"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, raw: bytes, message: str) -> None:
    shard = tmp_path / "bad.jsonl"
    shard.write_bytes(raw)
    with pytest.raises(DataError, match=rf"bad\.jsonl: {message}"):
        [row.text for row in read_rows(shard)]


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"fine\n<|endoftext|>\n\xff\xfe")
    with pytest.raises(DataError, match=r"bad\.txt: row 2: expected UTF-8"):
        [row.text for row in read_rows(tmp_path / "bad.txt")]


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl", "a.txt"])
def test_a_row_over_the_limit_is_refused(tmp_path: Path, name: str) -> None:
    shard = _write(tmp_path / name, ["short", "x" * 5000])
    with pytest.raises(DataError, match="expected at most 1000 bytes"):
        list(read_rows(shard, max_row_bytes=1000))


@pytest.mark.parametrize("name", ["missing.jsonl", "odd.parquet", "noise.jsonl.zst"])
def test_a_file_that_is_no_shard_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "noise.jsonl.zst").write_bytes(b"not a frame of zstd at all")
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        list(read_rows(tmp_path / name))


def test_turns_and_profiles_become_messages() -> None:
    profile = "About user 1: likes tea.\nAbout user 2: A cook.\n* * *\n"
    text = profile + "*User 1:* Hi!\n* User 2: Hello. *\nmore\n\nUser 1: Bye"
    assert parse_dialogue(text) == [
        ("system", "About the user: likes tea.\nAbout you: A cook."),
        ("user", "Hi!"),
        ("assistant", "Hello.\nmore"),
        ("user", "Bye"),
    ]


def test_a_line_with_a_colon_is_no_new_speaker() -> None:
    text = "User: How many?\nAssistant: Total: 3\nBob: 2*3=6\n#### 6"
    assert parse_dialogue(text) == [("user", "How many?"), ("assistant", "Total: 3\nBob: 2*3=6\n#### 6")]


@pytest.mark.parametrize("text", ["", "Once upon a time", "User: \nAssistant: ", "Bob: hi\nUser: x"])
def test_text_without_speakers_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected"):
        parse_dialogue(text)


def test_the_shipped_mixture_keeps_to_its_licences() -> None:
    mixture = builtin_mixture("core")
    names = {item.name for item in mixture.sets}
    assert not names & {
        "dialog_sgd",
        "wikipedia_vital_summaries",
        "instruct_gpteacher_roleplay",
        "storybooks_en",
    }
    assert not any("SA" in item.licence for item in mixture.sets)
    books = sum(item.weight for item in mixture.sets if item.format == "book")
    assert books / sum(item.weight for item in mixture.sets) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 0}, "weight: expected a number above 0"),
        ({"weight": True}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"format": "poem"}, "format: expected one of"),
        ({"glob": ""}, "glob: expected a text"),
        ({"max_epochs": 0}, "max_epochs: expected a whole number"),
        ({"seed": 1}, "expected the keys"),
    ],
)
def test_a_bad_mixture_is_refused(change: dict[str, Any], message: str) -> None:
    item = {"name": "a", "glob": "*.jsonl", "weight": 1, "format": "text", "licence": "MIT"} | change
    with pytest.raises(DataError, match=f"m: set 0: {message}"):
        parse_mixture(json.dumps({"sets": [item]}), origin="m")


def test_a_mixture_finds_its_shards(tmp_path: Path) -> None:
    item = {"name": "a", "glob": "*.jsonl", "weight": 3, "format": "text", "licence": "MIT"}
    (tmp_path / "m.json").write_text(
        json.dumps({"sets": [item, item | {"name": "b", "glob": "c*", "weight": 1}]})
    )
    mixture = load_mixture(tmp_path / "m.json")
    shards = [_write(tmp_path / name, ["x"]) for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(DataError, match=r"set 'b': no file in .* matches 'c\*'"):
        mixture.resolve(tmp_path)
    _write(tmp_path / "c.jsonl", ["x"])
    first, second = mixture.resolve(tmp_path)
    assert (first.weight, second.weight) == (0.75, 0.25)
    assert first.shards[:2] == tuple(shards)


@pytest.mark.parametrize("text", ["", "[]", '{"sets": []}', '{"sets": [1]}'])
def test_a_file_that_is_no_mixture_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="m: "):
        parse_mixture(text, origin="m")


@pytest.mark.skipif(not CORE.is_dir(), reason="needs the pre-training shards in ../shared/pretrain/core")
def test_every_real_dialogue_parses() -> None:
    for source in builtin_mixture("core").resolve(CORE):
        if source.format == "dialogue":
            for row in itertools.chain.from_iterable(map(read_rows, source.shards)):
                assert {role for role, _ in parse_dialogue(row.text)} >= {"user", "assistant"}
