"""Export, import and `hope session` against a scripted server."""

import argparse
import io
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hope_client
from hope_client import session_cli

if TYPE_CHECKING:
    from tests.clients.conftest import Flavour, Loopback

OCTETS = {"Content-Type": "application/octet-stream"}
_SESSION = {"id": "s2", "name": "a\x1b[31m", "created_at": 0.0, "model": "m", "seq": 7, "tokens": 5}
_LEVEL = {
    "name": "phi",
    "period": 1,
    "tokens": 5,
    "writes": 5,
    "frequency": 1.0,
    "drift_ratio": 0.25,
    "bytes": 8,
}


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    session_cli.add_session_parser(parser.add_subparsers())
    return session_cli.run_session(parser.parse_args(["session", *arguments]))


def test_an_export_as_bytes_and_into_a_file(loopback: "Loopback", flavour: "Flavour") -> None:
    data = bytes(range(256)) * 1000
    for _ in range(2):
        loopback.raw(200, data, OCTETS)
    assert flavour.call(lambda client: client.sessions.export("s/1"), loopback.url) == data
    file = io.BytesIO()
    assert flavour.call(lambda client: client.sessions.export_to("s1", file), loopback.url) == len(data)
    assert file.getvalue() == data
    assert [seen.path for seen in loopback.seen] == ["/v1/sessions/s%2F1/export", "/v1/sessions/s1/export"]


def test_an_export_that_breaks_off_raises(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.stream([b"x"], ending="cut")
    with pytest.raises(hope_client.ProtocolError):
        flavour.call(lambda client: client.sessions.export("s1"), loopback.url)
    loopback.stream([b"x"], ending="cut", kind="application/octet-stream")
    with pytest.raises(hope_client.APIConnectionError):
        flavour.call(lambda client: client.sessions.export("s1"), loopback.url)
    loopback.error(404, "session_not_found")
    with pytest.raises(hope_client.NotFoundError):
        flavour.call(lambda client: client.sessions.export("s1"), loopback.url)


def test_an_import_sends_the_bytes_as_they_are(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.error(429, "too_many_transfers", Retry_After="1")
    loopback.json(_SESSION)
    made = flavour.call(lambda client: client.sessions.import_(b"\x00\xff"), loopback.url)
    assert made.id == "s2"
    for seen in loopback.seen:
        assert (seen.method, seen.path, seen.body) == ("POST", "/v1/sessions/import", b"\x00\xff")
    assert len(loopback.seen) == 2


def test_an_import_whose_answer_is_lost_is_not_sent_again(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.drop()
    with pytest.raises(hope_client.APIConnectionError):
        flavour.call(lambda client: client.sessions.import_(b"x"), loopback.url)
    assert len(loopback.seen) == 1


def test_the_command_lists_page_by_page_and_shows(
    loopback: "Loopback", capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOPE_API_KEY", "hk_key")
    loopback.json({"data": [_SESSION], "has_more": True, "last_id": "c1"})
    loopback.json({"data": [{**_SESSION, "id": "s3", "name": None}]})
    assert run("ls", "--url", loopback.url) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["s2", "1970-01-01", "00:00:00", "5", "tokens", "entry", "7", "a?[31m"]
    assert second.startswith("s3 ")
    loopback.json({**_SESSION, "learning": "frozen"})
    loopback.json({"levels": [{**_LEVEL, "refused": 3}, {**_LEVEL, "name": "slow", "period": None}]})
    assert run("show", "s2", "--url", loopback.url) == 0
    shown = capsys.readouterr().out
    assert "learning has ended" in shown
    assert "3 refused" in shown
    assert "phi" in shown
    assert "frozen" in shown
    assert {seen.headers["authorization"] for seen in loopback.seen} == {"Bearer hk_key"}


def test_the_command_forks_rolls_back_and_deletes(
    loopback: "Loopback", capsys: pytest.CaptureFixture[str]
) -> None:
    loopback.json(_SESSION)
    loopback.json(_SESSION)
    loopback.json({"id": "s1"})
    assert run("fork", "s1", "--seq", "3", "--name", "twin", "--url", loopback.url) == 0
    assert run("rollback", "s1", "--seq", "2", "--url", loopback.url) == 0
    assert run("rm", "s1", "--url", loopback.url) == 0
    assert capsys.readouterr().out.startswith("s2\n")
    assert [(seen.method, seen.path, seen.body) for seen in loopback.seen] == [
        ("POST", "/v1/sessions/s1/fork", {"seq": 3, "name": "twin"}),
        ("POST", "/v1/sessions/s1/rollback", {"seq": 2}),
        ("DELETE", "/v1/sessions/s1", None),
    ]


def test_the_command_says_that_there_are_none_and_deletes_several(
    loopback: "Loopback", capsys: pytest.CaptureFixture[str]
) -> None:
    loopback.json({"data": []})
    assert run("ls", "--url", loopback.url) == 0
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "no sessions yet: hope chat makes one\n")
    for session in ("s1", "s2"):
        loopback.json({"id": session})
    assert run("rm", "s1", "s2", "--url", loopback.url) == 0
    assert [seen.path for seen in loopback.seen[1:]] == ["/v1/sessions/s1", "/v1/sessions/s2"]


def test_an_export_is_named_after_its_session(
    loopback: "Loopback", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loopback.raw(200, b"file", OCTETS)
    assert run("export", "s1", "--url", loopback.url) == 0
    assert (tmp_path / "s1.hope").read_bytes() == b"file"


def test_the_command_moves_sessions(
    loopback: "Loopback", capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "session.hope"
    loopback.raw(200, b"file", OCTETS)
    assert run("export", "s1", "--out", str(out), "--url", loopback.url) == 0
    assert (out.read_bytes(), stat.S_IMODE(out.stat().st_mode)) == (b"file", 0o600)
    loopback.json(_SESSION)
    assert run("import", str(out), "--url", loopback.url) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "s2"
    assert loopback.seen[-1].body == b"file"


def test_a_command_that_fails_says_so_and_leaves_no_file(
    loopback: "Loopback", capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "session.hope"
    out.write_bytes(b"before")
    loopback.stream([b"x"], ending="cut", kind="application/octet-stream")
    assert run("export", "s1", "--out", str(out), "--url", loopback.url) == 1
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("session.hope", b"before")]
    assert run("import", str(tmp_path / "none"), "--url", loopback.url) == 1
    loopback.error(404, "session_not_found")
    assert run("rm", "s1", "--url", loopback.url) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        f"hope session {action}" for action in ("export", "import", "rm")
    ]


def test_a_difference(loopback: "Loopback", flavour: "Flavour", capsys: pytest.CaptureFixture[str]) -> None:
    level = {"name": "phi", "writes": 3, "norm": 2.0, "relative": None, "max_abs": 1.5, "cosine": 0.25}
    answer = {"from_seq": 2, "to_seq": 7, "from_tokens": 2, "to_tokens": 6, "levels": [level]}
    for _ in range(2):
        loopback.json(answer)
    found = flavour.call(lambda client: client.sessions.diff("s1", from_seq=2), loopback.url)
    assert found.levels[0].relative is None
    assert run("diff", "s1", "--from", "2", "--to", "7", "--url", loopback.url) == 0
    assert [seen.path for seen in loopback.seen] == [
        f"/v1/sessions/s1/diff?from=2{to}" for to in ("", "&to=7")
    ]
    assert capsys.readouterr().out.splitlines()[-1].split() == ["phi", "3", "2", "-", "1.5", "0.25"]
