"""``hope eval continual`` as a user of a real server: the same figures as in this process, nothing taught."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.e2e.server_process import ServerProcess

from hope_client import Client
from hope_model.evaluate.sessions.asking import Question
from hope_server.cli import main
from hope_server.evaluate_remote import open_server

ROWS = [
    {"text": f"{words} {n}", "label": label}
    for label, words in (("card_lost", "I lost my card"), ("top_up", "Add money please"))
    for n in ("now", "today", "soon")
]
SIZES = ["--tasks", "2", "--examples", "2", "--questions", "1", "--conditions", "on"]
FIGURES = ["--figures", "calibrated", "greedy"]


def test_a_server_and_the_model_itself_give_the_same_matrix(
    server: ServerProcess, client: Client, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    before = {session.id for session in client.sessions.list().data}
    found = []
    for name, extra in (("own", ["--model", "hope-tiny"]), ("served", ["--url", server.url])):
        assert (
            main(["eval", "continual", str(rows), *SIZES, *FIGURES, "--out", str(tmp_path / name), *extra])
            == 0
        )
        content = json.loads((tmp_path / name / "continual.json").read_text())
        found.append([(run["condition"], run["figure"], run["matrix"]) for run in content["runs"]])
    assert found[0] == found[1]
    assert [figure for _, figure, _ in found[0]] == FIGURES[1:]
    assert {session.id for session in client.sessions.list().data} == before


def test_what_is_asked_teaches_nothing(server: ServerProcess, client: Client) -> None:
    """A session stands where it stood, and learns what a session learns that was never asked."""
    told = client.tokenize("The card of Ada is green, and that of Bob is red. " * 6).tokens
    question = Question(tuple(told[:5]), (tuple(told[5:7]), tuple(told[7:8])), 3)
    with open_server(server.url, None) as subject, subject.session(learn=True) as session:
        session.read(told[:70])
        made = next(each for each in client.sessions.list(limit=1000).data if each.tokens == 70)
        first = session.ask([question, question])
        assert client.sessions.get(made.id).tokens == 70
        assert session.ask([question])[0] == first[0] == first[1]
        session.read(told[70:])
        asked = client.sessions.levels(made.id).levels
        with subject.session(learn=True) as other:
            other.read(told[:70])
            other.read(told[70:])
            alike = [each for each in client.sessions.list(limit=1000).data if each.tokens == len(told)]
            silent = client.sessions.levels(alike[-1].id).levels
            assert asked == silent
    assert all(value < 0 for value in first[0].nats)


def test_without_a_server_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "needle", "noise", "--out", str(tmp_path / "out"), "--url", "http://127.0.0.1:9"]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("hope eval: http://127.0.0.1:9: ")
    assert not (tmp_path / "out").exists()
