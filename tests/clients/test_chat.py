"""`hope chat`, with scripted lines and a scripted server, and once at a real pseudo-terminal."""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from hope_client import APIConnectionError, Client, cli
from hope_client._chat import COMMANDS
from hope_client._chat_screen import PlainAnswer, printable
from hope_client._chat_turn import Turn

if TYPE_CHECKING:
    from tests.clients.conftest import Loopback

_NEW = {"id": "s1", "name": None, "created_at": 1.0, "model": "m", "seq": 0, "tokens": 0}
_OLD = {**_NEW, "name": "trip", "seq": 1300, "tokens": 1234}
_TURN = {"session": "s1", "seq": 9, "learned_tokens": 4, "level_writes": {"phi": 9, "cms-64": 0}, "drift": {}}
_PERIODS: dict[str, int | None] = {"phi": 1, "cms-64": 64, "slow": None}
_LEVELS = {
    "levels": [
        {
            "name": name,
            "period": period,
            "tokens": 6400,
            "writes": 6400 // period if period else 0,
            "refused": 3 if period else 0,
            "frequency": 1 / period if period else 0.0,
            "drift_ratio": {"phi": 0.25, "cms-64": 0.125}.get(name, 0.0),
            "bytes": 1_048_576 if period else 0,
        }
        for name, period in _PERIODS.items()
    ]
}


def _events(*texts: str, finish_reason: str = "stop") -> bytes:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices: list[dict[str, object]] = [
        {"index": 0, "delta": {"content": text}, "finish_reason": None} for text in texts
    ]
    chunks = [json.dumps({**head, "choices": [choice]}) for choice in choices]
    last = {"index": 0, "delta": {}, "finish_reason": finish_reason}
    chunks.append(json.dumps({**head, "choices": [last], "hope": _TURN}))
    return "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"]).encode()


def _arguments(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_chat_parser(parser.add_subparsers())
    return parser.parse_args(["chat", *arguments])


Lines = list[str | type[BaseException]]


def _reader(lines: Lines) -> Callable[[str], str]:
    """A terminal at which these lines are typed (or these keys pressed), and Ctrl-D after them."""
    waiting = iter(lines)

    def read_line(prompt: str) -> str:
        line = next(waiting, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read_line


def _chat(loopback: "Loopback", lines: Lines, *arguments: str) -> tuple[int, str]:
    """(exit status, what the terminal shows)."""
    screen = io.StringIO()
    console = Console(file=screen, width=100)
    args = _arguments("--url", loopback.url, *arguments)
    assert args.run_command is cli.run_chat
    sleeps: list[float] = []
    status = cli.run_chat(args, console=console, read_line=_reader(lines), sleep=sleeps.append)
    return status, screen.getvalue()


def test_a_turn_streams_and_sends_only_the_new_message(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    loopback.stream([_events("Hel", "lo [bold]:smile:")])
    loopback.stream([_events("Again")])
    status, screen = _chat(loopback, ["hi", "", "  ", "more"], "--temperature", "0", "--max-tokens", "9")
    assert status == 0
    assert "Hello [bold]:smile:\n" in screen
    create, first, second = loopback.seen
    assert (create.path, create.body) == ("/v1/sessions", {})
    expected = {"temperature": 0.0, "max_tokens": 9, "stream": True}
    assert first.body == {"messages": [{"role": "user", "content": "hi"}], **expected}
    assert second.body == {"messages": [{"role": "user", "content": "more"}], **expected}
    assert first.headers["x-session-id"] == second.headers["x-session-id"] == "s1"
    assert f"resume with: hope chat --session s1 --url {loopback.url}" in screen


def test_a_session_is_resumed(loopback: "Loopback") -> None:
    loopback.json(_OLD)
    status, screen = _chat(loopback, ["/quit", "never read"], "--session", "s1")
    assert status == 0
    assert "session s1 'trip' (1,234 tokens read)" in screen
    assert [seen.path for seen in loopback.seen] == ["/v1/sessions/s1"]


def test_a_name_is_given_to_a_new_session(loopback: "Loopback") -> None:
    loopback.json(_OLD)
    _chat(loopback, [], "--name", "trip")
    assert loopback.seen[0].body == {"name": "trip"}


@pytest.mark.parametrize("option", ["--system", "--name"])
def test_options_of_a_new_session_do_not_fit_a_begun_one(loopback: "Loopback", option: str) -> None:
    loopback.json(_OLD)
    status, screen = _chat(loopback, ["never read"], "--session", "s1", option, "x")
    assert status == 1
    assert f"hope chat: {option}: expected a" in screen


def test_a_session_that_does_not_exist_ends_it(loopback: "Loopback") -> None:
    loopback.error(404, "session_not_found")
    status, screen = _chat(loopback, ["never read"], "--session", "s1")
    assert (status, screen) == (1, "hope chat: session_not_found: it is session_not_found\n")


def test_an_address_without_a_server_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_chat(_arguments("--url", "nonsense"), read_line=_reader([])) == 1
    assert "base_url: expected http" in capsys.readouterr().out


def test_the_system_message_is_sent_once_and_again_after_a_reset(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    for reply in (None, None, {**_NEW, "seq": 10}, None):
        if reply is None:
            loopback.stream([_events("ok")])
        else:
            loopback.json(reply)
    _chat(loopback, ["one", "two", "/reset", "three"], "--system", "Be brief.")
    turns = [seen.body["messages"] for seen in loopback.seen if seen.path == "/v1/chat/completions"]
    system = {"role": "system", "content": "Be brief."}
    assert turns == [
        [system, {"role": "user", "content": "one"}],
        [{"role": "user", "content": "two"}],
        [system, {"role": "user", "content": "three"}],
    ]
    assert "/v1/sessions/s1/reset" in [seen.path for seen in loopback.seen]


def test_a_system_message_read_in_a_failed_turn_is_not_sent_again(
    loopback: "Loopback",
) -> None:
    loopback.json(_NEW)
    loopback.error(500, "internal_error")
    loopback.json(_OLD)
    loopback.stream([_events("ok")])
    _chat(loopback, ["one", "two"], "--system", "Be brief.")
    assert loopback.seen[-1].body["messages"] == [{"role": "user", "content": "two"}]


@pytest.mark.parametrize("learning", ["on", "frozen"])
def test_levels_are_shown_as_a_table(loopback: "Loopback", learning: str) -> None:
    loopback.json(_NEW)
    loopback.json(_LEVELS)
    loopback.json({**_OLD, "learning": learning})
    _, screen = _chat(loopback, ["/levels"])
    assert ("this session learns no more" in screen) == (learning == "frozen")
    rows = {line.split("│")[1].strip(): line for line in screen.splitlines() if line.startswith("│")}
    cells = {name: [cell.strip() for cell in rows[name].split("│")[1:-1]] for name in _PERIODS}
    assert cells["phi"] == ["phi", "1", "6,400", "6,400", "3", "1", "0.2500", "█" * 12, "1,048,576"]
    expected = ["cms-64", "64", "6,400", "100", "3", "0.015625", "0.1250", "█" * 6, "1,048,576"]
    assert cells["cms-64"] == expected
    assert cells["slow"] == ["slow", "frozen", "6,400", "0", "0", "0", "0.0000", "", "0"]
    assert all(title in screen for title in ("level", "period", "writes", "refused", "f_k", "drift", "bytes"))
    assert "2,097,152 bytes in this session" in screen


def test_save_writes_the_conversation_and_says_how_to_resume(loopback: "Loopback", tmp_path: Path) -> None:
    loopback.json(_NEW)
    loopback.stream([_events("An", "swer")])
    path = tmp_path / "chat.md"
    _, screen = _chat(loopback, ["hi", f"/save {path}", f"/save {path}"])
    command = f"hope chat --session s1 --url {loopback.url}"
    head = f"# Session s1\n\nResume with `{command}`.\n"
    assert path.read_text() == f"{head}\n## you\n\nhi\n\n## model\n\nAnswer\n"
    assert screen.count(f"session s1, resume with: {command}") == 2


def test_save_without_a_name_writes_into_the_working_directory(
    loopback: "Loopback", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loopback.json(_NEW)
    _chat(loopback, ["/save"])
    assert [path.name for path in tmp_path.iterdir()] == ["hope-chat-s1.md"]


def test_save_does_not_write_over_another_file(loopback: "Loopback", tmp_path: Path) -> None:
    path = tmp_path / "precious.md"
    path.write_text("mine")
    loopback.json(_NEW)
    _, screen = _chat(loopback, [f"/save {path}", f"/save {tmp_path}/no/such/folder"])
    assert path.read_text() == "mine"
    assert "File exists" in screen
    assert "No such file" in screen


def test_help_lists_every_command_and_an_unknown_one_is_named(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    _, screen = _chat(loopback, ["/help", "/nonsense"])
    assert all(f"\n{name} {arguments}".rstrip() in screen for name, arguments, _ in COMMANDS)
    assert "unknown command /nonsense; /help lists them" in screen


def test_two_slashes_send_a_text_that_begins_with_one(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    loopback.stream([_events("ok")])
    _chat(loopback, ["//etc/hosts"])
    assert loopback.seen[1].body["messages"][0]["content"] == "/etc/hosts"


def test_a_failed_turn_is_reported_and_the_chat_goes_on(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    loopback.error(500, "session_corrupted")
    loopback.json(_OLD)
    loopback.json(_OLD)
    loopback.stream([_events("fine")])
    status, screen = _chat(loopback, ["one", "bad \udcff bytes", "two"])
    assert status == 0
    assert "session_corrupted: it is session_corrupted" in screen
    assert "unicode" in screen
    assert "fine\n" in screen


def test_an_answer_cut_by_its_limit_says_so(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    loopback.stream([_events("and", finish_reason="length")])
    assert "token limit" in _chat(loopback, ["hi"])[1]


def test_ctrl_c_at_the_prompt_does_not_leave(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    loopback.stream([_events("still here")])
    status, screen = _chat(loopback, [KeyboardInterrupt, "hi"])
    assert status == 0
    assert "Ctrl-D leaves" in screen
    assert "still here" in screen


def test_what_a_terminal_would_obey_is_not_printed(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    loopback.stream([_events("a\x1b]0;owned\x07b\x9bc\u202ed\te\n")])
    _, screen = _chat(loopback, ["hi"])
    assert "a\ufffd]0;owned\ufffdb\ufffdc\ufffdd\te\n" in screen
    assert printable("né\u00a0日本 \U0001f600") == "né\u00a0日本 \U0001f600"


def test_a_broken_connection_is_tried_again_under_the_same_key(loopback: "Loopback") -> None:
    """Nothing of the turn was committed, so the same request is a turn of its own."""
    loopback.json(_NEW)
    loopback.drop()
    loopback.stream([_events("Hel", "lo")])
    status, screen = _chat(loopback, ["hi"])
    first, second = loopback.seen[1:]
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert "the server does not answer" in screen
    assert "Hello\n" in screen
    assert status == 0


def test_what_was_committed_before_the_break_comes_from_the_journal(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    loopback.stream([_events("Hel")[:-120]], ending="cut")
    loopback.error(409, "already_learned", more={"first_seq": 1, "last_seq": 4})
    pieces = [("run", "user", "hi"), ("step", "model", "Hel"), ("step", "model", "lo")]
    events = [
        {"seq": seq, "kind": kind, "token": seq, "text": text, "origin": origin}
        for seq, (kind, origin, text) in enumerate([("run", "template", "<s>"), *pieces], 1)
    ]
    later = {"seq": 5, "kind": "step", "token": 5, "text": "another turn's", "origin": "model"}
    loopback.json({"events": events[:3], "head": 5})
    loopback.json({"events": [events[3], later], "head": 5})
    _, screen = _chat(loopback, ["hi"])
    assert "Hel\nthe server does not answer" in screen
    assert "\nlo\n(the connection broke" in screen.replace("Ctrl-C stops\n", "\n")
    assert [seen.path.partition("?")[2] for seen in loopback.seen[-2:]] == [
        f"after={after}&limit=1000" for after in (0, 3)
    ]
    assert "another turn's" not in screen


def test_a_server_that_stays_away_ends_the_turn_alone(loopback: "Loopback") -> None:
    """Each refusal to connect is waited out for a while; the clock is the test's."""
    away: list[str] = []
    times = iter(range(0, 1000, 50))
    with Client("http://127.0.0.1:9", max_retries=0) as client:
        turn = Turn(
            client,
            "s1",
            [{"role": "user", "content": "hi"}],
            {},
            lambda error: away.append(str(error)),
            sleep=lambda _s: None,
            clock=lambda: float(next(times)),
        )
        with pytest.raises(APIConnectionError):
            turn.run(PlainAnswer(Console(file=io.StringIO())))
    assert len(away) == 1


def test_learn_off_goes_with_each_turn_until_it_is_on_again(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    for _ in range(4):
        loopback.stream([_events("ok")])
    lines: Lines = ["a", "/learn off", "b", "/learn", "c", "/learn maybe", "/learn on", "d"]
    _, screen = _chat(loopback, lines)
    turns = [seen.body for seen in loopback.seen if seen.path == "/v1/chat/completions"]
    assert [turn.get("learn") for turn in turns] == [None, "off", "off", "on"]
    assert "/learn: expected on or off, found maybe" in screen


def test_a_fork_is_gone_on_in(loopback: "Loopback") -> None:
    loopback.json(_NEW)
    loopback.json({**_OLD, "id": "s2"})
    loopback.stream([_events("ok")])
    _, screen = _chat(loopback, ["/fork a try", "hi"])
    assert (loopback.seen[1].path, loopback.seen[1].body) == ("/v1/sessions/s1/fork", {"name": "a try"})
    assert loopback.seen[2].headers["x-session-id"] == "s2"
    assert "now in s2, a copy of s1" in screen
    assert f"resume with: hope chat --session s2 --url {loopback.url}" in screen


def test_turns_are_taken_back_one_by_one(loopback: "Loopback", tmp_path: Path) -> None:
    loopback.json(_OLD)
    loopback.stream([_events("one")])
    loopback.stream([_events("two")])
    loopback.json({**_OLD, "seq": 10})
    loopback.json({**_OLD, "seq": 11})
    saved = tmp_path / "chat.md"
    lines: Lines = ["first", "second", "/rollback", "/rollback", "/rollback", f"/save {saved}"]
    _, screen = _chat(loopback, lines, "--session", "s1")
    rolled = [seen.body for seen in loopback.seen if seen.path.endswith("/rollback")]
    assert rolled == [{"seq": 9}, {"seq": 1300}]
    assert "taken back: second" in screen
    assert "no turn of this terminal to take back" in screen
    assert "first" not in saved.read_text()


def test_a_rollback_to_a_number_and_to_none(loopback: "Loopback") -> None:
    loopback.json(_OLD)
    loopback.json({**_OLD, "seq": 1301, "tokens": 5})
    _, screen = _chat(loopback, ["/rollback 5", "/rollback far"], "--session", "s1")
    assert loopback.seen[1].body == {"seq": 5}
    assert "as it was after entry 5: 5 tokens read" in screen
    assert "/rollback: expected a number of the journal, found far" in screen
