"""``hope eval recall`` and ``hope eval stream`` with a pre-trained checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.evaluate import talking

from hope_model.attention.rows import SessionRows
from hope_model.checkpoint import resolve
from hope_model.errors import CheckpointError, ConfigError, DataError
from hope_model.evaluate import unrelated
from hope_model.evaluate.attention_stream import session_losses
from hope_model.evaluate.cli import add_parser
from hope_model.evaluate.conversation import Render

QUICK = ("--people", "2", "--facts-per-person", "2", "--distance", "1", "--sanity-people", "1")


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred take most of the time of a small measurement."""
    monkeypatch.setattr(unrelated, "PROMPTS", unrelated.PROMPTS[:3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def personas(tmp_path: Path) -> Path:
    rows = [
        {
            "p1": f"I am {number}.\nI like {number}.",
            "p2": f"I was {number}.",
            "chat": f"User 1: {number}?\nUser 2: No, {number + 1} is what I said then.",
        }
        for number in range(40)
    ]
    path = tmp_path / "personas.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def _run(*arguments: str | Path, render: Render | None = talking.render) -> int:
    parser = argparse.ArgumentParser()
    render_of = None if render is None else lambda _checkpoint: render
    add_parser(parser.add_subparsers(), resolve, render_of)
    args = parser.parse_args(["eval", *map(str, arguments)])
    code: int = args.run_command(args)
    return code


def _content(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "recall.json").read_text(encoding="utf-8"))
    return content


def test_recall_prints_and_writes_its_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _run("recall", "--model", folder, "--out", out, *QUICK) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == (out / "recall.md").read_text(encoding="utf-8").strip()
    assert "person 2 of 2" in printed.err
    content = _content(out)
    assert (content["model"], content["window"], content["facts"]) == ("tiny", 128, "invented")
    assert (content["ceiling"], content["unrelated_prompts"]) == ("unlimited context, own", 3)
    (distance,) = content["distances"]
    assert (distance["windows"], distance["questions"], distance["sanity"]["sessions"]) == (1.0, 4, 1)
    assert len(content["questions"]) == 12
    assert (out / "recall.png").exists()


def test_quantised_weights_are_judged_as_such(folder: Path, tmp_path: Path) -> None:
    found = []
    for kind in ("none", "int8"):
        assert _run("recall", *QUICK, "--model", folder, "--quantize", kind, "--out", tmp_path / kind) == 0
        found.append(json.loads((tmp_path / kind / "recall.json").read_text()))
    assert [each["quantize"] for each in found] == ["none", "int8"]
    assert found[0]["questions"] != found[1]["questions"]


def test_recall_repeats_by_its_seed(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        _run("recall", "--model", folder, "--out", tmp_path / name, "--seed", seed, *QUICK)
    first, same, other = (_content(tmp_path / name)["questions"] for name in "abc")
    assert first == same
    assert first != other


def test_personas_tell_and_others_fill(folder: Path, personas: Path, tmp_path: Path) -> None:
    _run("recall", "--model", folder, "--out", tmp_path / "out", "--personas", personas, *QUICK)
    content = _content(tmp_path / "out")
    assert content["facts"] == "personas.jsonl"
    assert content["filler"] == "personas.jsonl, of other people"
    assert {record["kind"] for record in content["questions"]} == {"persona"}
    assert all(len(record["scores"]) == 8 for record in content["questions"])


def test_chats_fill_between_invented_facts(folder: Path, personas: Path, tmp_path: Path) -> None:
    _run("recall", "--model", folder, "--out", tmp_path / "chats", "--chats", personas, *QUICK)
    _run("recall", "--model", folder, "--out", tmp_path / "built in", *QUICK)
    chats, built_in = _content(tmp_path / "chats"), _content(tmp_path / "built in")
    assert (chats["facts"], chats["filler"]) == ("invented", "personas.jsonl")
    assert [record["kind"] for record in chats["questions"]] == [
        record["kind"] for record in built_in["questions"]
    ]
    assert chats["questions"] != built_in["questions"]


def test_transformers_can_be_the_ceiling(folder: Path, tmp_path: Path) -> None:
    reference = ("--reference", "transformers")
    _run("recall", "--model", folder, "--out", tmp_path / "out", *reference, *QUICK)
    content = _content(tmp_path / "out")
    assert content["ceiling"] == "unlimited context, transformers"
    assert len(content["questions"]) == 12


def test_without_transformers_it_is_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="expected the package transformers"):
        _run("recall", "--model", folder, "--out", tmp_path, "--reference", "transformers", *QUICK)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--distance", "0.5"], ConfigError, "distance: expected ascending numbers of windows, at least 1"),
        (["--people", "0"], ConfigError, "people: expected at least 1, found 0"),
        (["--facts-per-person", "99"], ConfigError, "facts per person: expected 1 to 18, found 99"),
        (["--sanity-people", "0"], ConfigError, "sanity people: expected at least 1"),
        (
            ["--model", "hope-tiny"],
            ConfigError,
            "expected one of family 'hope_attention', found family 'hope'",
        ),
        (["--model", "none"], CheckpointError, "expected a folder or one of hope-tiny, found 'none'"),
        (["--personas", "none.jsonl"], DataError, r"none\.jsonl: cannot be read"),
        (["--chats", "none.jsonl"], DataError, r"none\.jsonl: cannot be read"),
    ],
)
def test_what_cannot_be_measured_is_named(
    folder: Path, tmp_path: Path, arguments: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _run("recall", "--model", folder, "--out", tmp_path / "out", *QUICK, *arguments)
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_chat_is_refused(folder: Path, tmp_path: Path) -> None:
    base = talking.write_checkpoint(tmp_path / "base", template=False)
    with pytest.raises(ConfigError, match="expected a chat template, found none in tiny"):
        _run("recall", "--model", base, "--out", tmp_path / "out", *QUICK)
    with pytest.raises(ConfigError, match="chat format: expected the command"):
        _run("recall", "--model", folder, "--out", tmp_path / "out", *QUICK, render=None)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("the cat sat on the mat and the hat. " * 60, encoding="utf-8")
    return path


@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.parametrize("origin", ["text", "user"])
def test_a_stream_is_read_by_sessions(tmp_path: Path, book: Path, origin: str, add_bos: bool) -> None:
    base = talking.write_checkpoint(tmp_path / "base", template=False, add_bos=add_bos)
    lengths = ("--tokens", "300", "--judged-from", "100")
    _run("stream", book, "--model", base, "--out", tmp_path / "out", *lengths, "--origin", origin)
    (summary,) = json.loads((tmp_path / "out" / "stream.json").read_text()).values()
    ids = talking.tokenizer().encode(book.read_text(encoding="utf-8"))[:301]
    model = talking.model(torch.bfloat16)
    start = (talking.START,) if add_bos else ()
    for name, learn in (("carried", True), ("frozen", False)):
        losses = session_losses(SessionRows(model, 1, learn=learn), ids, origin, start)
        assert summary[name] == pytest.approx(float(losses[100:].mean()), rel=1e-5)
    assert "fresh" not in summary
    table = (tmp_path / "out" / "stream.md").read_text().splitlines()
    assert table[0] == "| stream | carried | frozen | gain of learning |"
    assert (tmp_path / "out" / "stream.png").read_bytes().startswith(b"\x89PNG")


def test_fresh_sessions_are_read_where_asked_for(folder: Path, tmp_path: Path, book: Path) -> None:
    lengths = ("--tokens", "1536", "--judged-from", "512", "--lead", "512")
    book.write_text(book.read_text(encoding="utf-8") * 5, encoding="utf-8")
    _run("stream", book, "--model", folder, "--out", tmp_path / "out", *lengths)
    (summary,) = json.loads((tmp_path / "out" / "stream.json").read_text()).values()
    assert summary["carried_minus_fresh"] == pytest.approx(summary["carried"] - summary["fresh"])


def test_a_stream_of_the_familys_own_length_is_asked_for(folder: Path, tmp_path: Path, book: Path) -> None:
    with pytest.raises(DataError, match="book: expected at least 8193 tokens"):
        _run("stream", book, "--model", folder, "--out", tmp_path / "out")
