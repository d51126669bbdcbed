"""`hope replay` against a scripted server: what it prints, and its exit status."""

import argparse
from typing import TYPE_CHECKING

import pytest

from hope_client import replay

if TYPE_CHECKING:
    from tests.clients.conftest import Loopback

_FOUND = {
    "seq": 7,
    "tokens": 5,
    "head_sha256": "aa",
    "replayed_sha256": "bb",
    "restored_sha256": "bb",
    "snapshot_seq": 4,
    "equal": True,
}


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    replay.add_replay_parser(parser.add_subparsers())
    return replay.run_replay(parser.parse_args(["replay", *arguments]))


@pytest.mark.parametrize(("equal", "status", "word"), [(True, 0, "equal"), (False, 1, "DIFFERENT")])
def test_verify(
    loopback: "Loopback", capsys: pytest.CaptureFixture[str], equal: bool, status: int, word: str
) -> None:
    loopback.json({**_FOUND, "restored_sha256": "bb" if equal else "cc", "equal": equal})
    assert run("s1", "--verify", "--url", loopback.url) == status
    assert loopback.seen[0].path == "/v1/sessions/s1/verify"
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == word
    assert "snapshot at 4" in printed


def test_the_journal_is_read_page_by_page(loopback: "Loopback", capsys: pytest.CaptureFixture[str]) -> None:
    token = {"kind": "run", "origin": "user", "token": 65, "text": "\x1b[31m"}
    loopback.json({"events": [{**token, "seq": 1}], "head": 2})
    loopback.json({"events": [{"seq": 2, "kind": "reset", "origin": "system"}], "head": 2})
    assert run("s1", "--url", loopback.url) == 0
    assert [seen.path for seen in loopback.seen] == [
        f"/v1/sessions/s1/events?after={after}&limit=1000" for after in (0, 1)
    ]
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["1", "run", "user", "65", r"'\x1b[31m'"]
    assert second.split() == ["2", "reset", "system"]


def test_what_the_server_refuses(loopback: "Loopback", capsys: pytest.CaptureFixture[str]) -> None:
    loopback.error(404, "session_not_found")
    assert run("nobody", "--verify", "--url", loopback.url) == 2
    assert "hope replay: session_not_found" in capsys.readouterr().err
