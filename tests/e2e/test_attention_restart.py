"""A server of a converted model: its sessions learn, and come back from a crash as they were."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hope_client import Client, HopeClientError
from hope_client.wire import LevelStatus

Journal = Callable[[Client, str], list[int]]
BLOCK, PERIOD, DELAY = 256, 64, 64


def words(number: int, length: int) -> str:
    """What a user says: plain letters, each a token or more."""
    return "".join(chr(97 + (7 * place + 3 * number * place // 5) % 26) for place in range(length))


def say(client: Client, session: str | None, number: int, length: int, tokens: int = 40) -> str:
    """The likeliest answer to a message, word by word the same for the same next-token distributions."""
    answer = client.chat(
        [{"role": "user", "content": words(number, length)}],
        session_id=session,
        max_tokens=tokens,
        temperature=0,
        ignore_eos=True,
    )
    content = answer.choices[0].message.content
    assert isinstance(content, str)
    return content


def learning(client: Client, session: str) -> LevelStatus:
    fast, slow = client.sessions.levels(session).levels
    assert (fast.name, fast.period, slow.name, slow.writes) == ("fast", PERIOD, "slow", 0)
    return fast


def test_killed_between_turns_it_learns_on(start_server: Any, checkpoint: Path, journal: Journal) -> None:
    """Inside the first block, and past a boundary whose state is stored."""
    turns = [(0, 90), (1, 120), (2, 150), (3, 30)]
    kills = (0, 2)
    start = partial(start_server, "--model", str(checkpoint))
    server = start()
    expected, writes, found = [], [], []
    with server.client() as client:
        twin, session = (client.sessions.create().id for _ in range(2))
        for number, length in turns:
            expected.append(say(client, twin, number, length))
            writes.append(learning(client, twin).writes)
    for number, length in turns:
        with server.client() as client:
            found.append(say(client, session, number, length))
            assert learning(client, session).writes == writes[number]
        if number in kills:
            server.kill()
            digest, server = server.slow_weights_sha256, start()
            assert server.slow_weights_sha256 == digest
            with server.client() as client:
                assert learning(client, session).writes == writes[number]
    assert found == expected
    assert 0 < writes[0] < writes[1] < writes[2]
    with server.client() as client:
        assert journal(client, session) == journal(client, twin)
        levels = [client.sessions.levels(one).levels for one in (session, twin)]
        assert levels[0] == levels[1]
        fast = learning(client, twin)
        assert fast.tokens > 2 * BLOCK
        assert fast.writes <= (fast.tokens - DELAY) // PERIOD, "a period of answers alone teaches nothing"
        assert fast.drift_ratio > 0
        assert say(client, session, 9, 20) == say(client, twin, 9, 20)
    assert server.stop() == 0
    assert f"slow weights unchanged: sha256 {server.slow_weights_sha256}" in server.log()


def test_a_server_that_does_not_learn(start_server: Any, checkpoint: Path) -> None:
    learner = start_server("--model", str(checkpoint))
    with learner.client() as client:
        taught = client.sessions.create().id
        learned = [say(client, taught, number, 200) for number in range(2)]
        assert learning(client, taught).writes > 0
    assert learner.stop() == 0
    server = start_server("--model", str(checkpoint), "--no-learn")
    assert server.slow_weights_sha256 != learner.slow_weights_sha256
    with server.client() as client:
        session = client.sessions.create().id
        found = [say(client, session, number, 200) for number in range(2)]
        fast = learning(client, session)
        assert (fast.writes, fast.drift_ratio) == (0, 0)
        assert found != learned
        with pytest.raises(HopeClientError, match="learned on slow weights"):
            say(client, taught, 3, 10)
