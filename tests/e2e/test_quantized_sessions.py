"""Quantised weights are another model to a session: it waits, unharmed, for those that it began with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hope_client import APIStatusError, Client

Journal = Callable[[Client, str], list[int]]


def say(client: Client, session: str, number: int, length: int = 90) -> str:
    """The likeliest answer to plain letters, each a token or more."""
    words = "".join(chr(97 + (7 * place + 3 * number * place // 5) % 26) for place in range(length))
    answer = client.chat(
        [{"role": "user", "content": words}],
        session_id=session,
        max_tokens=30,
        temperature=0,
        ignore_eos=True,
    )
    content = answer.choices[0].message.content
    assert isinstance(content, str)
    return content


def assert_refused(ask: Callable[[], object]) -> None:
    with pytest.raises(APIStatusError, match="learned on slow weights") as refused:
        ask()
    assert (refused.value.status, refused.value.code) == (404, "session_model_mismatch")


def test_a_session_goes_on_only_with_its_own_weights(
    start_server: Any, checkpoint: Path, journal: Journal
) -> None:
    start = partial(start_server, "--model", str(checkpoint))
    quantized = partial(start, "--quantize", "int4")
    server = start()
    plain = server.slow_weights_sha256
    with server.client() as client:
        session, twin = (client.sessions.create().id for _ in range(2))
        assert say(client, session, 0) == say(client, twin, 0)
        assert client.sessions.levels(session).levels[0].writes > 0
        exported, read = client.sessions.export(session), journal(client, session)
    assert server.stop() == 0

    server = quantized()
    digest = server.slow_weights_sha256
    assert digest != plain
    with server.client() as client:
        assert_refused(lambda: say(client, session, 1))
        assert_refused(lambda: client.sessions.import_(exported))
        own, other = (client.sessions.create().id for _ in range(2))
        assert say(client, own, 0) == say(client, other, 0)
        assert client.sessions.levels(own).levels[0].writes > 0
    server.kill()

    server = start()
    assert server.slow_weights_sha256 == plain
    with server.client() as client:
        assert journal(client, session) == read
        assert say(client, session, 1) == say(client, twin, 1)
        assert_refused(lambda: say(client, own, 1))
    assert server.stop() == 0

    server = quantized()
    assert server.slow_weights_sha256 == digest
    with server.client() as client:
        assert say(client, own, 1) == say(client, other, 1)
        assert journal(client, own) == journal(client, other)
    assert server.stop() == 0
    assert f"slow weights unchanged: sha256 {digest}" in server.log()
