"""`hope replay --verify`: however a session came about, its state is bit for bit that of its journal."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hope_client import Client, HopeClientError
from hope_client.replay import add_replay_parser, run_replay
from hope_client.wire import Completion

Replay = Callable[[Any, str], str]
PROMPT, ANSWER = 100, 30
STRICT_NATS = 1e-9
"""A canary's bound that no write keeps, so that every fourth one and those after it are refused."""


@pytest.fixture(params=["hope", "hope_attention"])
def flags(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    """Of a server of each family."""
    if request.param == "hope":
        return ()
    source: Path = request.getfixturevalue("checkpoint")
    folder = Path(shutil.copytree(source, tmp_path / "strict"))
    config = json.loads((folder / "config.json").read_text())
    config["memory"]["canary"] = STRICT_NATS
    (folder / "config.json").write_text(json.dumps(config))
    return "--model", str(folder)


@pytest.fixture
def replay(capsys: pytest.CaptureFixture[str]) -> Replay:
    """The state's hash, once the command has found it equal."""
    parser = argparse.ArgumentParser()
    add_replay_parser(parser.add_subparsers())

    def verified(server: Any, session: str) -> str:
        status = run_replay(parser.parse_args(["replay", session, "--verify", "--url", server.url]))
        lines = capsys.readouterr().out.splitlines()
        assert (status, lines[-1]) == (0, "equal"), lines
        found = dict(line.split(maxsplit=1) for line in lines[:-1])
        assert found["restored"].startswith(found["replayed"])
        return found["replayed"]

    return verified


def turn(client: Client, session: str, number: int, length: int = PROMPT, **options: Any) -> Completion:
    """A sampled turn with a fixed seed."""
    prompt = [(13 * place + 31 * number) % 80 + 10 for place in range(length)]
    asked: Any = {"max_tokens": ANSWER, "temperature": 1.0, "seed": number, "ignore_eos": True, **options}
    answer: Completion = client.completions(prompt, session_id=session, **asked)
    return answer


def live(client: Client, session: str) -> str:
    """Past the first boundary of the native family's blocks."""
    for number in range(3):
        turn(client, session, number)
    return session


def killed_in_a_turn(server: Any, client: Client) -> str:
    """A session whose answer was cut by kill -9 of its server."""
    session = live(client, client.sessions.create().id)
    stream = turn(client, session, 9, max_tokens=4096, stream=True)
    pieces = iter(stream.text())  # type: ignore[attr-defined]
    for _ in range(3):
        next(pieces)
    server.kill()
    with pytest.raises(HopeClientError):
        list(pieces)
    return session


def test_every_kind_of_session_is_what_its_journal_makes(
    start_server: Any, flags: tuple[str, ...], replay: Replay
) -> None:
    server, learning = start_server(*flags), "frozen" if flags else "on"
    with server.client() as client, ThreadPoolExecutor(3) as pool:
        alone = live(client, client.sessions.create().id)
        batch = list(pool.map(lambda _: live(client, client.sessions.create().id), range(3)))
        forked = client.sessions.fork(alone, seq=3 * PROMPT).id
        rolled = client.sessions.fork(alone).id
        client.sessions.rollback(rolled, seq=3 * PROMPT)
        imported = client.sessions.import_(client.sessions.export(alone)).id
        state = replay(server, alone)
        assert {replay(server, session) for session in (*batch, imported)} == {state}
        assert replay(server, rolled) == replay(server, forked) != state
        for session in (alone, *batch, forked, rolled, imported):
            turn(client, session, 4, 40)
        state = replay(server, alone)
        assert {replay(server, session) for session in (*batch, imported)} == {state}
        assert {client.sessions.get(session).learning for session in (alone, forked, imported)} == {learning}
        killed = killed_in_a_turn(server, client)
    server = start_server(*flags)
    with server.client() as client:
        cut = client.sessions.get(killed).seq
        assert cut > 3 * (PROMPT + ANSWER) + PROMPT
        replay(server, killed)
        answer = turn(client, killed, 5)
        assert answer.hope is not None
        assert answer.hope.learning == learning
        replay(server, killed)
        assert replay(server, alone) == state
        twin = client.sessions.import_(client.sessions.export(killed)).id
        assert replay(server, twin) == replay(server, killed)
    assert server.stop() == 0
