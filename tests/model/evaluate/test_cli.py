"""``hope eval`` as a command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from hope_model.errors import CheckpointError, ConfigError, DataError, QuantizeError
from hope_model.evaluate.bits import hope_bits
from hope_model.evaluate.cli import add_parser, read_text
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer
from hope_model.train.objective import TransformerObjective

LENGTHS = ("--tokens", "2048", "--judged-from", "1024", "--lead", "512")


def _run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["eval", *map(str, arguments)])
    code: int = args.run_command(args)
    return code


def _out(kind: str, folder: Path) -> list[str]:
    return ["--out", str(folder / "out")] if kind == "stream" else []


def _records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def book(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(text * 4, encoding="utf-8")
    return path


@pytest.fixture
def rows(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"text": text}) + "\n") * 4, encoding="utf-8")
    return path


def test_a_stream_evaluation_prints_and_writes_its_table(
    checkpoint: Path, book: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _run("stream", book, rows, "--model", checkpoint, "--out", out, *LENGTHS) == 0
    table = capsys.readouterr().out.strip()
    assert table == (out / "stream.md").read_text(encoding="utf-8").strip()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["book", "rows", "mean"]
    assert json.loads((out / "stream.json").read_text(encoding="utf-8")).keys() == {"book", "rows"}
    assert (out / "stream.png").read_bytes().startswith(b"\x89PNG")


def test_an_offset_skips_characters(checkpoint: Path, book: Path, tmp_path: Path) -> None:
    skipped = tmp_path / "skipped.txt"
    skipped.write_text(book.read_text(encoding="utf-8")[50:], encoding="utf-8")
    for path, offset in ((book, 50), (skipped, 0)):
        given = ("--model", checkpoint, "--out", tmp_path / path.stem, *LENGTHS)
        _run("stream", path, *given, "--offset", str(offset))
    one, other = (json.loads((tmp_path / name / "stream.json").read_text()) for name in ("book", "skipped"))
    assert one["book"] == other["skipped"]


def test_bits_prints_a_line_for_each_file_and_their_mean(
    checkpoint: Path, book: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("bits", book, rows, "--model", checkpoint, "--tokens", "60") == 0
    first, second, mean = _records(capsys)
    assert [record["file"] for record in (first, second, mean)] == ["book.txt", "rows.jsonl", "mean"]
    assert first["tokens"] == second["tokens"] == 60
    assert mean["hope"] == pytest.approx((first["hope"] + second["hope"]) / 2)


def test_bits_are_those_of_the_text(
    model: Hope, tokenizer: Tokenizer, checkpoint: Path, book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("bits", book, "--model", checkpoint, "--tokens", "60")
    ids = tokenizer.encode(book.read_text(encoding="utf-8"))[:61]
    assert _records(capsys)[0]["hope"] == pytest.approx(hope_bits(model, tokenizer, ids), rel=1e-5)


def test_bits_of_a_yardstick_stand_beside(
    checkpoint: Path, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "step-1").mkdir(parents=True)
    weights = dict(TransformerObjective("test").model.state_dict())
    save_file(weights, tmp_path / "run" / "step-1" / "model.safetensors")
    (tmp_path / "run" / "latest.json").write_text('{"step": 1}')
    given = ("--transformer-run", tmp_path / "run", "--window", "16", "--tokens", "60")
    _run("bits", book, "--model", checkpoint, *given)
    record, mean = _records(capsys)
    assert record.keys() == {"file", "tokens", "hope", "transformer"}
    assert mean["transformer"] == record["transformer"] > 0


def test_documents_of_a_shard_are_joined_by_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert read_text(path) == "one\n\ntwo"


@pytest.mark.parametrize("kind", ["stream", "bits"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"none\.txt: cannot be read"),
        ("short.txt", b"a", "short.*: expected at least"),
        ("empty.txt", b"", "empty.*: expected at least"),
        ("latin.txt", b"caf\xe9", r"latin\.txt: row 1: expected UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": 5}\n', r"bad\.jsonl: row 2: expected an object"),
        ("page.pdf", b"%PDF", r"page\.pdf: expected a name that ends in"),
    ],
)
def test_a_file_that_cannot_be_judged_is_named(
    checkpoint: Path, tmp_path: Path, kind: str, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    out = _out(kind, tmp_path)
    with pytest.raises(DataError, match=message):
        _run(kind, tmp_path / name, "--model", checkpoint, *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["stream", "task"])
def test_a_native_model_is_not_quantised(checkpoint: Path, book: Path, tmp_path: Path, kind: str) -> None:
    book.write_text("= A title =\n\nAnd a text.\n")
    what = ["wikitext", book] if kind == "task" else [book]
    with pytest.raises(QuantizeError, match="a native Hope model, found int4"):
        _run(kind, *what, "--model", checkpoint, "--quantize", "int4", *_out(kind, tmp_path))


def test_files_of_one_name_are_refused(checkpoint: Path, book: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="distinct names, found book, book"):
        _run("stream", book, book, "--model", checkpoint, "--out", tmp_path, *LENGTHS)


def test_lengths_that_do_not_fit_are_refused(checkpoint: Path, book: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stream lengths: expected"):
        _run("stream", book, "--model", checkpoint, "--out", tmp_path, "--tokens", "1000")


@pytest.mark.parametrize("kind", ["stream", "bits"])
def test_an_unknown_model_is_refused(book: Path, tmp_path: Path, kind: str) -> None:
    out = _out(kind, tmp_path)
    with pytest.raises(CheckpointError, match="expected a folder or one of hope-tiny"):
        _run(kind, book, "--model", "none", *out)


def test_a_window_without_a_context_is_refused(checkpoint: Path, book: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "step-1").mkdir(parents=True)
    save_file(dict(TransformerObjective("test").model.state_dict()), run / "step-1" / "model.safetensors")
    (run / "latest.json").write_text('{"step": 1}')
    with pytest.raises(ConfigError, match="window: expected at least 2"):
        _run("bits", book, "--model", checkpoint, "--transformer-run", run, "--window", "1")


@pytest.mark.parametrize("arguments", [["bits", "--tokens", "-5"], ["stream", "--offset", "-5", *LENGTHS]])
def test_a_negative_length_is_refused(
    checkpoint: Path, book: Path, tmp_path: Path, arguments: list[str]
) -> None:
    kind, *more = arguments
    out = _out(kind, tmp_path)
    with pytest.raises((ConfigError, DataError), match="expected"):
        _run(kind, book, "--model", checkpoint, *out, *more)
