"""A server that dies comes back with every session as it was, to the bit."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hope_client import Client, HopeClientError
from hope_client.wire import Completion
from hope_server.sessions.embedded import EmbeddedValkey

Journal = Callable[[Client, str], list[int]]
ENGINE = Path(__file__).parent / "engine_process.py"


def prompt(turn: int, length: int) -> list[int]:
    return [(13 * i + 31 * turn) % 8000 + 100 for i in range(length)]


def turn(client: Client, session: str, number: int, length: int, **options: Any) -> str:
    """The text of a sampled turn with a fixed seed: equal for equal next-token distributions."""
    asked = {"max_tokens": 40, "temperature": 1.0, "seed": number, "ignore_eos": True, **options}
    answer: Completion = client.completions(prompt(number, length), session_id=session, **asked)
    return answer.choices[0].text


def test_killed_between_turns(start_server: Any, journal: Journal) -> None:
    first = start_server()
    with first.client() as client:
        twin, session = (client.sessions.create().id for _ in range(2))
        expected = [turn(client, twin, 0, 700), turn(client, twin, 1, 333), turn(client, twin, 2, 5)]
        found = [turn(client, session, 0, 700)]
    first.kill()
    second = start_server()
    assert second.slow_weights_sha256 == first.slow_weights_sha256
    with second.client() as client:
        found.append(turn(client, session, 1, 333))
        second.kill()
    with start_server().client() as client:
        found.append(turn(client, session, 2, 5))
        assert found == expected
        assert journal(client, session) == journal(client, twin)
        levels = [client.sessions.levels(one).levels for one in (session, twin)]
        assert levels[0] == levels[1]


def test_killed_in_the_middle_of_an_answer(start_server: Any, journal: Journal) -> None:
    """What the client has seen is in the journal, and the session goes on from exactly there."""
    first = start_server()
    with first.client() as client:
        session = client.sessions.create().id
        stream = client.completions(
            prompt(0, 300), session_id=session, max_tokens=8192, seed=0, ignore_eos=True, stream=True
        )
        pieces = stream.text()
        seen = "".join(next(pieces) for _ in range(20))
        first.kill()
        with pytest.raises(HopeClientError):
            seen += "".join(pieces)
    with start_server().client() as client:
        tokens = journal(client, session)
        assert tokens[:300] == prompt(0, 300)
        events = client.sessions.events(session, after=300, limit=10_000).events
        assert "".join(event.text or "" for event in events).startswith(seen)
        twin = client.sessions.create().id
        turn(client, twin, 0, 300, max_tokens=len(tokens) - 300)
        assert journal(client, twin) == tokens
        assert turn(client, session, 1, 100) == turn(client, twin, 1, 100)


@pytest_asyncio.fixture
async def store_url(tmp_path: Path) -> AsyncIterator[str]:
    valkey = EmbeddedValkey(tmp_path / "valkey")
    await valkey.start()
    yield valkey.url
    await valkey.stop()


def engine(store_url: str, session: str, *turns: int) -> Any:
    """Run turns in an engine process of their own, then kill it; what it said of state and next logits."""
    process = subprocess.Popen(
        [sys.executable, str(ENGINE), store_url, session, *map(str, turns)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    process.kill()
    process.communicate()
    return json.loads(said)


async def test_logits_and_state_are_bit_equal_across_processes(store_url: str) -> None:
    uninterrupted = engine(store_url, "twin", 300, 77, 400)
    for length in (300, 77, 400):
        resumed = engine(store_url, "killed", length)
    assert uninterrupted == resumed
    assert uninterrupted["position"] == 300 + 77 + 400 + 3 * 9


def test_killed_in_a_turn_that_teaches_nothing(start_server: Any, journal: Journal) -> None:
    """What is read of it after the restart teaches no more than before."""
    first = start_server()
    with first.client() as client:
        session = client.sessions.create().id
        turn(client, session, 0, 300)
        asked: Any = {"max_tokens": 8192, "seed": 1, "ignore_eos": True, "learn": "off"}
        stream = client.completions(prompt(1, 300), session_id=session, stream=True, **asked)
        pieces = stream.text()
        for _ in range(10):
            next(pieces)
        first.kill()
        with pytest.raises(HopeClientError):
            "".join(pieces)
    with start_server().client() as client:
        assert client.sessions.verify(session).equal
        tokens = journal(client, session)
        quiet = client.sessions.events(session, after=340, limit=10_000).events
        assert {event.learn for event in quiet} == {"off"}
        writes = {level.name: level.writes for level in client.sessions.levels(session).levels}
        assert (writes["cms-64"], writes["cms-256"]) == (340 // 64, 340 // 256)
        assert len(tokens) > 640
