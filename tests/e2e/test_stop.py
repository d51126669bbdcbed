"""SIGTERM: running turns finish within the deadline, everything is kept, the status is 0."""

import signal
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from hope_client import Client, StreamError

Journal = Callable[[Client, str], list[int]]
STILL_RUNNING = 4096
"""Tokens of an answer that is still being written when a test has asked twice whether the server is ready."""


def long_answer(client: Client, session: str, max_tokens: int) -> Any:
    """A stream whose first token has arrived, and its text so far."""
    stream = client.completions(
        [100] * 20, session_id=session, max_tokens=max_tokens, seed=1, ignore_eos=True, stream=True
    )
    pieces = stream.text()
    return stream, pieces, next(pieces)


def test_a_running_stream_is_finished_and_nothing_new_is_admitted(
    start_server: Any, journal: Journal
) -> None:
    server = start_server("--drain-deadline-s", "600")
    with server.client() as client:
        session = client.sessions.create().id
        stream, pieces, text = long_answer(client, session, STILL_RUNNING)
        server.terminate()
        _until_not_ready(server.url)
        refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        text += "".join(pieces)
        assert stream.finish_reason == "length"
    assert server.wait() == 0
    assert f"slow weights unchanged: sha256 {server.slow_weights_sha256}" in server.log()
    with start_server().client() as client:
        assert len(journal(client, session)) == 20 + STILL_RUNNING
        events = client.sessions.events(session, after=20, limit=10_000).events
        assert "".join(event.text or "" for event in events) == text


def _until_not_ready(url: str) -> None:
    while httpx.get(f"{url}/ready", timeout=60).status_code == 200:
        pass


def test_a_stream_that_takes_too_long_is_cut_and_kept(start_server: Any, journal: Journal) -> None:
    server = start_server("--drain-deadline-s", "0.5")
    with server.client() as client:
        session = client.sessions.create().id
        _, pieces, text = long_answer(client, session, 8192)
        seen = [text]
        server.terminate()
        with pytest.raises(StreamError) as cut:
            seen.extend(pieces)
        assert cut.value.code == "shutting_down"
    assert server.wait() == 0
    with start_server().client() as client:
        events = client.sessions.events(session, after=20, limit=10_000).events
        assert "".join(event.text or "" for event in events).startswith("".join(seen))
        assert len(journal(client, session)) == client.sessions.get(session).tokens


def test_an_interrupt_from_the_keyboard_is_a_graceful_stop_too(start_server: Any) -> None:
    server = start_server()
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0


def test_a_second_signal_ends_the_process_at_once(start_server: Any) -> None:
    server = start_server("--drain-deadline-s", "600")
    with server.client() as client:
        long_answer(client, client.sessions.create().id, 8192)
        server.terminate()
        _until_not_ready(server.url)
        server.terminate()
        assert server.wait() == 128 + signal.SIGTERM
