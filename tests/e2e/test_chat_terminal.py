"""`hope chat` at a pseudo-terminal against a real server: a conversation, an interrupt, a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.terminal import CTRL_C, Terminal

from hope_client import Client

PROGRAM = "import sys; from hope_server.cli import main; sys.exit(main())"
ENDLESS = """
import sys
from hope_client import cli
given = cli._turn_options
cli._turn_options = lambda args: {**given(args), "ignore_eos": True}
from hope_server.cli import main
sys.exit(main())
"""
"""Answers of this one end at --max-tokens alone."""
Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program at a terminal."""
    started: list[Terminal] = []

    def run(program: str, *arguments: str) -> Terminal:
        started.append(Terminal(program, ["chat", *arguments], XDG_STATE_HOME=str(tmp_path)))
        return started[-1]

    yield run
    for terminal in started:
        terminal.close()


def said(client: Client, session: str, origin: str, after: int = 0) -> str:
    events = client.sessions.events(session, after=after, limit=10_000).events
    return "".join(event.text or "" for event in events if event.origin == origin)


def answered(text: str) -> Callable[[str], bool]:
    """Whether the screen shows some of the answer to a text."""
    return lambda shown: len(shown.partition(f"> {text}\n")[2].strip()) > 40


def test_a_conversation(server: Any, client: Client, start: Start) -> None:
    session = client.sessions.create().id
    terminal = start(PROGRAM, "--url", server.url, "--session", session, "--max-tokens", "8", "--seed", "1")
    terminal.expect("\n>")
    terminal.say("Hello there.")
    terminal.expect("(learned")
    terminal.say("/learn off")
    terminal.expect("(learn off) >")
    learned = client.sessions.get(session).seq
    terminal.say("Quiet words.")
    terminal.expect("(learned 0 tokens")
    events = client.sessions.events(session, limit=1000).events
    assert {event.learn for event in events[:learned]} == {"on"}
    assert {event.learn for event in events[learned:]} == {"off"}
    terminal.say("/levels")
    terminal.expect("bytes in this session")
    assert "█" in terminal.text
    assert "cms-256" in terminal.text
    terminal.say("/rollback")
    terminal.expect(f"as it was after entry {learned}")
    terminal.say("/learn on")
    terminal.expect("turns teach the session")
    terminal.say("/fork a try")
    terminal.expect(f"a copy of {session}")
    terminal.say("Words of the copy.")
    terminal.expect("(learned", 3)
    terminal.say("/quit")
    terminal.expect("resume with: hope chat --session ")
    assert terminal.process.wait(60) == 0
    (copy,) = (one for one in client.sessions.list(limit=1000).data if one.name == "a try")
    assert "Words of the copy." in said(client, copy.id, "user")
    assert "Words of the copy." not in said(client, session, "user")


def test_ctrl_c_stops_the_server_s_work_and_the_chat_goes_on(
    server: Any, client: Client, start: Start
) -> None:
    session = client.sessions.create().id
    terminal = start(
        ENDLESS, "--url", server.url, "--session", session, "--max-tokens", "8000", "--seed", "1"
    )
    terminal.expect("\n>")
    terminal.say("Hello")
    terminal.until(answered("Hello"), "an answer")
    terminal.type(CTRL_C)
    terminal.expect("stopped")
    before = client.sessions.get(session).seq
    terminal.say("/rollback")
    terminal.expect("as it was after entry 0: 0 tokens read")
    assert before < 8000, "the turn was cut short"
    terminal.say("/quit")
    terminal.expect("resume with")


def test_an_answer_outlives_a_restart_of_the_server(start_server: Any, start: Start) -> None:
    """What was committed is shown once, and the session goes on."""
    first = start_server()
    port = first.url.rpartition(":")[2]
    with first.client() as client:
        session = client.sessions.create().id
    terminal = start(
        ENDLESS, "--url", first.url, "--session", session, "--max-tokens", "400", "--seed", "1", "--plain"
    )
    terminal.expect("\n>")
    terminal.say("Hello")
    terminal.until(answered("Hello"), "an answer")
    first.kill()
    terminal.expect("the server does not answer")
    second = start_server("--port", port)
    terminal.expect("this is what the session has of the answer")
    shown = terminal.text.partition("> Hello\n")[2].replace("\n", " ")
    with second.client() as client:
        answer = said(client, session, "model").replace("\n", " ")
        assert answer.split()[:5] == shown.split()[:5]
        assert said(client, session, "user").count("Hello") == 1
        terminal.say("Again")
        terminal.until(answered("Again"), "an answer")
        terminal.type(CTRL_C)
        terminal.expect("stopped")
        assert "Again" in said(client, session, "user")
