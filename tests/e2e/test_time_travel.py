"""Time travel over HTTP, with a real model, server and store."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hope_client import Client
from hope_client.wire import Completion


def told(client: Client, session: str, number: int) -> str:
    """A sampled turn with a fixed seed: equal texts for equal states."""
    options: Any = {"max_tokens": 8, "temperature": 1.0, "seed": number, "ignore_eos": True}
    answer: Completion = client.completions([200 + number] * 150, session_id=session, **options)
    return answer.choices[0].text


def test_a_fork_and_a_rollback_go_on_from_the_state_of_then(client: Client) -> None:
    session = client.sessions.create().id
    told(client, session, 1)
    point = client.sessions.get(session).seq
    second = told(client, session, 2)
    third = told(client, session, 3)
    twin = client.sessions.fork(session, seq=point, name="twin")
    assert (twin.seq, twin.tokens, twin.name) == (point, point, "twin")
    assert (told(client, twin.id, 2), told(client, twin.id, 3)) == (second, third)
    back = client.sessions.rollback(session, seq=point)
    assert back.tokens == point
    assert (told(client, session, 2), told(client, session, 3)) == (second, third)


def replay(server: Any, session: str) -> tuple[int, list[str]]:
    """Exit status and lines of `hope replay SESSION --verify`."""
    command = [sys.executable, "-m", "hope_server", "replay", session, "--verify", "--url", server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def test_a_session_is_what_its_journal_makes_of_it(server: Any, client: Client) -> None:
    session = client.sessions.create().id
    for number in range(2):
        told(client, session, number)
    client.sessions.rollback(session, seq=200)
    told(client, session, 2)
    twin = client.sessions.fork(session)
    found = [client.sessions.verify(each) for each in (session, twin.id)]
    assert all(each.equal and each.tokens == 358 for each in found)
    assert found[0].replayed_sha256 == found[1].replayed_sha256
    status, lines = replay(server, session)
    assert (status, lines[-1]) == (0, "equal")
    assert f"replayed  {found[0].replayed_sha256}" in lines
    assert replay(server, "nobody")[0] == 2


def test_a_session_moves_as_a_file(server: Any, client: Client, tmp_path: Path) -> None:
    """With its snapshot, and from its journal alone on a server that does not know the key."""
    session = client.sessions.create("travels").id
    for number in range(2):
        told(client, session, number)
    client.sessions.rollback(session, seq=200)
    expected = client.sessions.verify(session)
    out = tmp_path / "session.hope"
    run = [sys.executable, "-m", "hope_server", "session"]
    subprocess.run([*run, "export", session, "--out", str(out), "--url", server.url], check=True)
    command = [*run, "import", str(out), "--url", server.url]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert client.sessions.get(made).name == "travels"
    assert out.read_bytes()[:8] == client.sessions.export(made)[:8]
    with_stranger_s_tag = bytearray(out.read_bytes())
    with_stranger_s_tag[-1] ^= 1
    alone = client.sessions.import_(bytes(with_stranger_s_tag)).id
    for twin in (made, alone):
        status, lines = replay(server, twin)
        assert (status, lines[-1]) == (0, "equal")
        assert f"replayed  {expected.replayed_sha256}" in lines
    assert client.sessions.verify(made).snapshot_seq == 0 or client.sessions.verify(alone).snapshot_seq == 0
    assert told(client, made, 5) == told(client, alone, 5) == told(client, session, 5)


def test_what_two_points_differ_in(client: Client) -> None:
    session = client.sessions.create().id
    told(client, session, 1)
    point = client.sessions.get(session).seq
    told(client, session, 2)
    found = client.sessions.diff(session, from_seq=point)
    counted = {level.name: level for level in client.sessions.levels(session).levels}
    before = {level.name: level for level in client.sessions.diff(session, to_seq=point).levels}
    assert found.to_tokens - found.from_tokens == 158
    for level in found.levels:
        assert level.writes + before[level.name].writes == counted[level.name].writes
        assert (level.norm > 0) == (level.writes > 0)
        assert level.max_abs <= level.norm
    assert {level.name for level in found.levels} == counted.keys() - {"slow", "frozen"}
    client.sessions.rollback(session, seq=point)
    back = client.sessions.diff(session, from_seq=point)
    assert all(level.norm == 0 and level.writes == 0 for level in back.levels)
