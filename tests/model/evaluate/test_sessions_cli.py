"""``hope eval needle``, ``babilong`` and ``continual`` as commands, on a tiny model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from tests.model.evaluate import talking
from tests.model.evaluate.asked import Spoken, remembers

from hope_kernels.quantized_linear import Bits
from hope_model.attention import checkpoint as checkpoints
from hope_model.attention.checkpoint import AttentionCheckpoint
from hope_model.errors import CheckpointError, ConfigError, DataError, QuantizeError
from hope_model.evaluate import heat_map
from hope_model.evaluate.cli import add_parser
from hope_model.evaluate.sessions import hope as hope_sessions

KINDS = ("needle", "babilong", "continual")
NEEDLE = ("--lengths", "90", "150", "--depths", "0", "100", "--repeats", "1")
CONTINUAL = ("--tasks", "2", "--examples", "2", "--questions", "1", "--context-tokens", "99")
WORDS = ("kalo", "mitesing", "dorrun", "shaan")


def _run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["eval", *map(str, arguments)])
    code: int = args.run_command(args)
    return code


def _lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def book(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(text.replace(" ka", ". Ka"), encoding="utf-8")
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows = [
        {
            **{"words": 9, "depth": 50, "context": f"The {n} is here.", "question": "What is it?"},
            **{"answer": str(n)},
        }
        for n in range(9)
    ]
    return _lines(tmp_path / "texts.jsonl", rows)


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    rows = [
        {"task": task, "facts": [f"Ann went to {place}."], "question": "Where?", "answer": place}
        for task in (1, 2)
        for place in WORDS
    ]
    return _lines(tmp_path / "stories.jsonl", rows)


@pytest.fixture
def intents(tmp_path: Path) -> Path:
    rows = [{"text": f"about the {word} {n}", "label": f"the_{word}"} for word in WORDS for n in range(3)]
    return _lines(tmp_path / "intents.jsonl", rows)


@pytest.fixture
def commands(
    book: Path, stories: Path, intents: Path, checkpoint: Path, tmp_path: Path
) -> dict[str, list[Any]]:
    """Of each kind one, to which more can be added."""
    common = ["--model", checkpoint, "--out", tmp_path / "out"]
    return {
        "needle": ["needle", book, *NEEDLE, *common],
        "babilong": ["babilong", stories, "--haystack", book, "--lengths", "60", "--limit", "2", *common],
        "continual": ["continual", intents, *CONTINUAL, *common],
    }


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of a fake model, which take no time; no plots."""
    monkeypatch.setattr(hope_sessions, "HopeSubject", lambda _model, _tokenizer: Spoken(remembers(2)))
    monkeypatch.setattr(heat_map, "new_figure", lambda _width, _height: None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_prints_and_writes_its_report(
    commands: dict[str, list[Any]],
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    few = {
        "needle": ["--depths", "50"],
        "babilong": ["--tasks", "1"],
        "continual": ["--figures", "calibrated"],
    }
    assert _run(*commands[kind], *few[kind], "--conditions", "on") == 0
    out = tmp_path / "out"
    text = (out / f"{kind}.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    assert f"| {checkpoint.name} | delta | on |" in text
    assert (out / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((out / f"{kind}.json").read_text(encoding="utf-8"))["records"]) == 2


@pytest.mark.usefixtures("spoken")
@pytest.mark.parametrize(("kind", "records"), [("needle", 8), ("babilong", 8), ("continual", 6)])
def test_a_command_goes_on_after_a_break(
    commands: dict[str, list[Any]], tmp_path: Path, kind: str, records: int
) -> None:
    assert _run(*commands[kind]) == 0
    path = tmp_path / "out" / f"{kind}.jsonl"
    whole = path.with_suffix(".json").read_text(encoding="utf-8")
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(rows) == records + 1
    path.write_text("".join(rows[:4]) + rows[4][:9], encoding="utf-8")  # broken off inside a record
    assert _run(*commands[kind]) == 0
    assert path.with_suffix(".json").read_text(encoding="utf-8") == whole
    stamp = path.stat().st_mtime_ns
    assert _run(*commands[kind]) == 0
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("spoken")
@pytest.mark.parametrize("kind", KINDS)
def test_other_settings_do_not_overwrite(commands: dict[str, list[Any]], tmp_path: Path, kind: str) -> None:
    assert _run(*commands[kind]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ConfigError, match="holds results of other settings: expected conditions"):
        _run(*commands[kind], "--conditions", "off")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.usefixtures("spoken")
def test_the_matrix_of_every_model_condition_and_figure(
    commands: dict[str, list[Any]], checkpoint: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    twin.symlink_to(checkpoint)
    assert _run(*commands["continual"], "--model", twin, "--seeds", "3", "4") == 0
    content = json.loads((tmp_path / "out" / "continual.json").read_text())
    assert content["chance"] == 0.25
    runs = {(run["model"], run["condition"], run["figure"]): run for run in content["runs"]}
    assert len(runs) == 2 * 3 * 3
    for (model, condition, figure), run in runs.items():
        assert [len(row) for row in run["matrix"]] == [2, 2]
        assert [stream["seed"] for stream in run["streams"]] == [3, 4]
        accuracies = [stream["acc"]["value"] for stream in run["streams"]]
        assert run["acc"]["value"] == pytest.approx(sum(accuracies) / 2)
        assert run["acc"]["stderr"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2)
        for stream in run["streams"]:
            assert stream["acc"]["value"] == pytest.approx(sum(stream["matrix"][1]) / 2)
            lost = stream["matrix"][0][0] - stream["matrix"][1][0]
            assert stream["forgetting"]["value"] == pytest.approx(lost)
        # A session that keeps two classes knows the last task alone.
        if condition != "context":
            assert (run["acc"]["value"], run["forgetting"]["value"]) == (0.5, 1.0)
        other = twin.name if model == checkpoint.name else checkpoint.name
        assert run["matrix"] == runs[other, condition, figure]["matrix"]


@pytest.mark.usefixtures("spoken")
def test_whole_texts_are_measured_as_they_lie(texts: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert _run("needle", texts, "--model", checkpoint, "--out", tmp_path / "out", "--repeats", "2") == 0
    content = json.loads((tmp_path / "out" / "needle.json").read_text())
    assert [(cell["length"], cell["depth"], cell["needles"]) for cell in content["cells"]] == [(9, 50, 2)] * 2


@pytest.mark.usefixtures("spoken")
def test_noise_is_a_haystack(checkpoint: Path, tmp_path: Path) -> None:
    assert _run("needle", "noise", *NEEDLE, "--model", checkpoint, "--out", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "needle.json").read_text())["haystack"]["name"] == "noise"


@pytest.mark.parametrize(("origin", "quantize"), [("text", "none"), ("user", "int8")])
def test_a_pre_trained_model_can_have_all_in_sight(
    book: Path, tmp_path: Path, origin: str, quantize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    load = checkpoints.load_attention_checkpoint

    def noted(folder: Path, *, quantize: Bits | None) -> AttentionCheckpoint:
        loaded.append(quantize)
        return load(folder, quantize=quantize)

    monkeypatch.setattr(checkpoints, "load_attention_checkpoint", noted)
    folder = talking.write_checkpoint(tmp_path / "tiny")
    short = ("--lengths", "90", "--depths", "50", "--repeats", "1", "--conditions", "on", "context")
    out = tmp_path / "out"
    how = ("--model", folder, "--origin", origin, "--quantize", quantize, "--out", out)
    assert _run("needle", book, *short, *how) == 0
    assert loaded == [None if quantize == "none" else quantize]
    cells = json.loads((out / "needle.json").read_text())["cells"]
    assert [(cell["rule"], cell["condition"]) for cell in cells] == [
        ("hope_attention", "on"),
        ("hope_attention", "context"),
    ]


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        (
            "needle",
            ["--conditions", "context"],
            ConfigError,
            "conditions: expected on and off for checkpoint",
        ),
        ("needle", ["--lengths", "99999"], DataError, "book.txt: expected .* tokens around what is hidden"),
        ("needle", ["--lengths", "0"], ConfigError, "lengths: expected positive numbers"),
        ("needle", ["--model", "none"], CheckpointError, "expected a folder or one of hope-tiny"),
        ("needle", ["--origin", "user"], ConfigError, "origin: expected 'text' for .*checkpoint"),
        (
            "needle",
            ["--quantize", "int8"],
            QuantizeError,
            "expected none for .*, a native Hope",
        ),
        ("needle", ["--url", "http://127.0.0.1:1"], ConfigError, "model: expected without --url"),
        ("babilong", ["--tasks", "3"], DataError, r"expected tasks among \[1, 2\], found \[3\]"),
        ("babilong", ["--shots", "1"], ConfigError, "shots: expected a number with --examples"),
        ("babilong", ["--limit", "0"], ConfigError, "limit: expected at least 1, found 0"),
        ("babilong", ["--lengths", "9"], DataError, "found no room"),
        ("continual", ["--tasks", "5"], DataError, "classes: expected 5 at least for 5 tasks, found 4"),
        ("continual", ["--questions", "2"], DataError, r"class 'the_\w+': expected 4 rows at least, found 3"),
        ("continual", ["--seeds", "1", "1"], ConfigError, "seeds: expected each once, found 1 1"),
        ("continual", ["--test", "none.jsonl"], DataError, r"none\.jsonl: cannot be read"),
        ("continual", ["--examples", "0"], ConfigError, "examples: expected at least 1, found 0"),
    ],
)
def test_what_cannot_be_measured_is_named_and_nothing_written(
    commands: dict[str, list[Any]],
    tmp_path: Path,
    kind: str,
    arguments: list[str],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        _run(*commands[kind], *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--kind", "word"], ConfigError, "kind, depths: expected with a text that nothing is hidden in"),
        (["--repeats", "0"], ConfigError, "repeats: expected at least 1"),
        (["--lengths", "8"], DataError, r"texts.jsonl: expected lengths among \[9\], found \[8\]"),
    ],
)
def test_whole_texts_say_what_they_hold(
    texts: Path, checkpoint: Path, tmp_path: Path, arguments: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _run("needle", texts, "--model", checkpoint, "--out", tmp_path / "out", *arguments)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("needle", '{"words": 1}', "a whole number as 'depth', found None"),
        ("babilong", '{"task": 1, "facts": [3]}', r"a list of texts as 'facts', found \[3\]"),
        ("continual", '{"text": "so"}', "a text as 'label', found None"),
        ("continual", "{", "JSON, found"),
        ("continual", "[]", r"an object, found \[\]"),
    ],
)
def test_a_broken_row_is_named_by_its_number(
    texts: Path, stories: Path, intents: Path, tmp_path: Path, kind: str, row: str, message: str
) -> None:
    path = {"needle": texts, "babilong": stories, "continual": intents}[kind]
    lines = path.read_text().splitlines()
    lines[1] = row
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=f"{path.name}, row 2: expected {message}"):
        _run(kind, path, "--out", tmp_path / "out")


def test_files_without_rows_or_classes_are_refused(tmp_path: Path, intents: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    for kind in KINDS:
        with pytest.raises(DataError, match=r"empty\.jsonl: expected one row at least, found none"):
            _run(kind, empty, "--out", tmp_path / "out")
    _lines(intents, [{"text": f"number {n}", "label": "one"} for n in range(9)])
    with pytest.raises(DataError, match="classes: expected 2 at least for 1 tasks, found 1"):
        _run("continual", intents, "--tasks", "1", "--out", tmp_path / "out")


def test_rows_without_a_text_want_one_to_hide_in(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="haystack: expected a text to hide the facts in"):
        _run("babilong", stories, "--out", tmp_path / "out")


def test_two_models_of_one_name_are_refused(intents: Path, checkpoint: Path, tmp_path: Path) -> None:
    common = ("continual", intents, *CONTINUAL, "--out", tmp_path / "out", "--model", checkpoint)
    with pytest.raises(ConfigError, match="model: expected models of distinct names"):
        _run(*common, "--model", checkpoint)


def test_a_server_takes_the_command_that_has_the_client(intents: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="url: expected the command `hope`"):
        _run("continual", intents, *CONTINUAL, "--out", tmp_path, "--url", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="origin: expected 'text' with --url"):
        _run(
            *("continual", intents, *CONTINUAL, "--out", tmp_path, "--url", "http://127.0.0.1:1"),
            *("--origin", "user"),
        )
    with pytest.raises(ConfigError, match="quantize: expected a model of this process, found int4 with"):
        _run(
            *("continual", intents, *CONTINUAL, "--out", tmp_path, "--url", "http://127.0.0.1:1"),
            *("--quantize", "int4"),
        )
