"""`hope serve` that cannot start, and `hope chat` against a server that runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hope_client import Client


def hope(*arguments: str, lines: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "hope_server", *arguments],
        input=lines,
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["--port", "http"], {}, "--port (HOPE_PORT): expected"),
        ([], {"HOPE_SLOTS": "0"}, "--slots (HOPE_SLOTS): expected"),
        (
            ["--slots", "65536", "--host-state-bytes", "17592186044416"],
            {},
            "--host-state-bytes (HOPE_HOST_STATE_BYTES): ",
        ),
        (["--host", "0.0.0.0"], {}, "--host (HOPE_HOST): "),
        (["--model", "no-such-model"], {}, "--model (HOPE_MODEL): "),
        (["--no-learn"], {}, "--learn (HOPE_LEARN): "),
        (["--quantize", "int2"], {}, "--quantize (HOPE_QUANTIZE): expected 'none', 'int8' or 'int4'"),
        ([], {"HOPE_QUANTIZE": "int4"}, "--quantize (HOPE_QUANTIZE): expected none for hope-tiny, a native"),
        ([], {"REDIS_URL": "redis://127.0.0.1:1"}, "--redis-url (HOPE_REDIS_URL): no Redis server answers"),
    ],
)
def test_a_server_that_cannot_start_says_which_setting_is_wrong(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], said: str
) -> None:
    common = ["--model", "hope-tiny", "--port", "0", "--data-dir", str(tmp_path)]
    done = hope("serve", *common, *arguments, **variables)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"hope serve: {said}")
    assert "Traceback" not in done.stderr


def test_a_chat_at_the_terminal(server: Any, client: Client, tmp_path: Path) -> None:
    saved = tmp_path / "chat.md"
    lines = ["Hello there", "/levels", f"/save {saved}", "/reset", "Again", "/quit", "never read"]
    options = ["--url", server.url, "--name", "e2e", "--max-tokens", "6", "--seed", "1"]
    done = hope("chat", *options, lines="\n".join(lines) + "\n", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    (session,) = (one for one in client.sessions.list(limit=1000).data if one.name == "e2e")
    for name in ("phi", "projections", "cms-64", "cms-256", "slow", "frozen"):
        assert name in done.stdout
    assert "the session is back at its beginning" in done.stdout
    assert f"hope chat --session {session.id} --url {server.url}" in done.stdout
    assert "Hello there" in saved.read_text()
    events = client.sessions.events(session.id, limit=1000).events
    assert [event.kind for event in events].count("reset") == 1
    read = "".join(event.text or "" for event in events if event.origin == "user")
    assert "Hello there" in read
    assert "Again" in read
    assert "never read" not in read


def test_a_chat_goes_on_where_it_was_left(server: Any, client: Client) -> None:
    session = client.sessions.create().id
    options = ["--url", server.url, "--session", session, "--max-tokens", "4"]
    for line in ("One", "Two"):
        before = client.sessions.get(session).tokens
        assert hope("chat", *options, lines=f"{line}\n").returncode == 0
        assert 0 < client.sessions.get(session).tokens - before < 20
