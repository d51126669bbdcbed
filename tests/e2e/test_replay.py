"""`hope replay --verify`: however a session came about, its state is bit for bit that of its journal."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hope_client import Client, HopeClientError
from hope_client.replay import add_replay_parser, run_replay
from hope_client.wire import Completion

Replay = Callable[[Any, str], str]
ANSWER = 8
STRICT_NATS = 1e-9
"""A canary's bound that no write keeps, so that every fourth one and those after it are refused."""


@dataclass(frozen=True)
class Family:
    """How its server is started; prompts that lead just past a boundary, and past the end of learning if its
    writes are refused.
    """

    flags: tuple[str, ...]
    prompts: tuple[int, ...]
    learning: str


@pytest.fixture(params=["hope", "hope_attention"])
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Family:
    if request.param == "hope":
        return Family((), (130, 130, 20), "on")
    source: Path = request.getfixturevalue("checkpoint")
    folder = Path(shutil.copytree(source, tmp_path / "strict"))
    config = json.loads((folder / "config.json").read_text())
    config["model"]["memory"]["canary"] = STRICT_NATS
    (folder / "config.json").write_text(json.dumps(config))
    return Family(("--model", str(folder)), (220, 220, 60), "frozen")


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


def turn(client: Client, session: str, number: int, length: int, **options: Any) -> Completion:
    """A sampled turn with a fixed seed."""
    prompt = [(13 * place + 31 * number) % 80 + 10 for place in range(length)]
    asked: Any = {"max_tokens": ANSWER, "temperature": 1.0, "seed": number, "ignore_eos": True, **options}
    answer: Completion = client.completions(prompt, session_id=session, **asked)
    return answer


def live(client: Client, family: Family) -> str:
    """A session with all its turns."""
    session = client.sessions.create().id
    for number, length in enumerate(family.prompts):
        turn(client, session, number, length)
    return session


def killed_in_a_turn(server: Any, client: Client, family: Family) -> str:
    """A session whose answer was cut by kill -9 of its server."""
    session = live(client, family)
    asked: Any = {"max_tokens": 4096, "stream": True}
    stream: Any = turn(client, session, 9, family.prompts[0], **asked)
    pieces = iter(stream.text())
    for _ in range(3):
        next(pieces)
    server.kill()
    with pytest.raises(HopeClientError):
        list(pieces)
    return session


def test_every_kind_of_session_is_what_its_journal_makes(
    start_server: Any, family: Family, replay: Replay
) -> None:
    server, early = start_server(*family.flags), family.prompts[0] + ANSWER + 20
    with server.client() as client, ThreadPoolExecutor(3) as pool:
        alone = live(client, family)
        batch = list(pool.map(lambda _: live(client, family), range(2)))
        forked = client.sessions.fork(alone, seq=early).id
        rolled = client.sessions.fork(alone).id
        client.sessions.rollback(rolled, seq=early)
        imported = client.sessions.import_(client.sessions.export(alone)).id
        states = []
        for group in ((alone, *batch, imported), (forked, rolled)):
            for session in group:
                turn(client, session, 4, 10)
            states.append({replay(server, session) for session in group})
        assert [len(found) for found in states] == [1, 1]
        assert client.sessions.get(alone).learning == family.learning
        killed = killed_in_a_turn(server, client, family)
    server = start_server(*family.flags)
    with server.client() as client:
        answer = turn(client, killed, 5, 10)
        assert answer.hope is not None
        assert answer.hope.learning == family.learning
        twin = client.sessions.import_(client.sessions.export(killed)).id
        assert replay(server, twin) == replay(server, killed)
    assert server.stop() == 0
