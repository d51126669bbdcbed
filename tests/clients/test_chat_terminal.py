"""`hope chat` as a program: at a real pseudo-terminal, at a poor one, and on a pipe."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prompt_toolkit.history import InMemoryHistory
from tests.clients.test_chat import _NEW, _OLD, _events
from tests.terminal import ALT_ENTER, CTRL_C, CTRL_D, TAB, UP, Terminal

from hope_client._chat_input import history_of

if TYPE_CHECKING:
    from tests.clients.conftest import Loopback

PROGRAM = """
import argparse, sys
from hope_client import cli
parser = argparse.ArgumentParser()
cli.add_chat_parser(parser.add_subparsers())
args = parser.parse_args(sys.argv[1:])
sys.exit(args.run_command(args))
"""
COLOUR = re.compile(rb"\x1b\[[0-9;]*(3[0-7]|38;5;[0-9]+|9[0-7])[;m]")
Start = Callable[..., Terminal]


@pytest.fixture
def start(loopback: Loopback, tmp_path: Path) -> Iterator[Start]:
    """Starts `hope chat` at a terminal; its state directory is the test's."""
    started: list[Terminal] = []

    def run(*arguments: str, **variables: Any) -> Terminal:
        state = {"XDG_STATE_HOME": str(tmp_path), **variables}
        started.append(Terminal(PROGRAM, ["chat", "--url", loopback.url, *arguments], **state))
        return started[-1]

    yield run
    for terminal in started:
        terminal.close()


def test_an_answer_is_markdown_and_its_turn_is_told(loopback: Loopback, start: Start) -> None:
    loopback.json(_NEW)
    loopback.stream(
        [
            _events(
                "# A title\n\nSome **bo",
                "ld** text,\nin two lines.\n\n- an item\n\n```py\nx  =  1\n",
                "```\n",
            )
        ]
    )
    terminal = start()
    terminal.expect("\n>")
    terminal.say("hi")
    terminal.expect("(learned 4 tokens; writes: phi 9)")
    shown = terminal.text
    assert "**" not in shown
    assert "```" not in shown
    assert "Some bold text,\nin two lines." in shown
    assert " • an item" in shown
    assert "x  =  1" in shown
    assert shown.count("A title") == 1
    assert COLOUR.search(terminal.raw)


def test_no_color_is_heeded(loopback: Loopback, start: Start) -> None:
    loopback.json(_NEW)
    loopback.stream([_events("Some **bold** text and `code`.")])
    terminal = start(NO_COLOR="1")
    terminal.expect("\n>")
    terminal.say("hi")
    terminal.expect("(learned 4 tokens")
    assert "Some bold text" in terminal.text
    assert not COLOUR.search(terminal.raw)


def test_texts_of_several_lines(loopback: Loopback, start: Start) -> None:
    """Alt-Enter, a backslash before Enter, and a paste."""
    for _ in range(3):
        loopback.json(_NEW) if not loopback.replies else None
        loopback.stream([_events("fine")])
    terminal = start()
    terminal.expect("\n>")
    terminal.say(f"one{ALT_ENTER}two")
    terminal.expect("(learned", 1)
    terminal.expect("\n>", 2)
    terminal.type("three\\\r")
    terminal.say("four")
    terminal.expect("(learned", 2)
    terminal.expect("\n>", 3)
    terminal.type("\x1b[200~five\nsix\x1b[201~")
    terminal.say("")
    terminal.expect("(learned", 3)
    said = [seen.body["messages"][0]["content"] for seen in loopback.seen[1:]]
    assert said == ["one\ntwo", "three\nfour", "five\nsix"]


def test_what_was_typed_is_there_the_next_time_and_nobody_else_s(
    loopback: Loopback, start: Start, tmp_path: Path
) -> None:
    for _ in range(2):
        loopback.json(_NEW)
        loopback.stream([_events("fine")])
    first = start()
    first.expect("\n>")
    first.say("remember me")
    first.expect("(learned")
    first.expect("\n>", 2)
    first.type(CTRL_D)
    first.expect("resume with: hope chat --session s1")
    assert first.process.wait(60) == 0
    file = tmp_path / "hope" / "chat_history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "+remember me" in file.read_text()
    second = start()
    second.expect("\n>")
    second.type(UP)
    second.expect("> remember me")
    second.say("")
    second.expect("(learned")
    assert loopback.seen[-1].body["messages"][0]["content"] == "remember me"


def test_a_history_is_for_its_owner_alone_or_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "hope" / "chat_history"
    file.parent.mkdir()
    file.write_text("\n+old\n")
    file.chmod(0o644)
    assert list(history_of(file).load_history_strings()) == ["old"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for none in (None, file / "below a file"):
        assert isinstance(history_of(none), InMemoryHistory)


def test_tab_completes_a_command(loopback: Loopback, start: Start) -> None:
    loopback.json(_NEW)
    terminal = start()
    terminal.expect("\n>")
    terminal.type(f"/he{TAB}")
    terminal.expect("> /help")
    terminal.say("")
    terminal.expect("show this list")


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_ctrl_c_stops_the_turn_and_ctrl_d_leaves(loopback: Loopback, start: Start, term: str) -> None:
    loopback.json(_NEW)
    loopback.stream([_events("thinking").split(b"\n\n")[0] + b"\n\n"], ending="hang")
    loopback.json(_OLD)
    loopback.stream([_events("second answer")])
    terminal = start(term=term)
    terminal.expect("/help lists the commands")
    terminal.expect("\n>")
    terminal.say("first")
    terminal.expect("thinking")
    terminal.type(CTRL_C)
    terminal.expect("stopped")
    assert loopback.hang_up.wait(60), "stopping hangs up, so that the server stops too"
    terminal.expect("\n>", 2)
    terminal.say("second")
    terminal.expect("second answer")
    terminal.expect("\n>", 3)
    terminal.type(CTRL_D)
    terminal.expect("resume with: hope chat --session s1")
    assert terminal.process.wait(60) == 0
    assert loopback.seen[-1].body["messages"] == [{"role": "user", "content": "second"}]


def test_plain_shows_text_as_it_is(loopback: Loopback, start: Start) -> None:
    loopback.json(_NEW)
    loopback.stream([_events("Some **bold** text")])
    terminal = start("--plain")
    terminal.expect("\n>")
    terminal.say("hi")
    terminal.expect("Some **bold** text")


def test_lines_from_a_pipe(loopback: Loopback) -> None:
    loopback.json(_NEW)
    loopback.stream([_events("**answer**")])
    loopback.stream([_events("more")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "chat", "--url", loopback.url],
        input=b"hi\none\\\ntwo\n\xff\n",
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"\n**answer**\n" in done.stdout
    assert b"> " not in done.stdout
    assert b"\x1b" not in done.stdout
    assert b"unicode" in done.stdout
    assert b"Traceback" not in done.stderr
    assert loopback.seen[2].body["messages"][0]["content"] == "one\ntwo"
