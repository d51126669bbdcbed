"""Clients that leave at a random byte of a stream: the journal has what they were sent, learned once."""

import json
import socket
import struct
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_client import Client
from hope_client.wire import Event

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""
MAX_TOKENS = 12
STREAM_BYTES = 4000
"""About what a whole answer takes."""


def body(session: str, prompt: list[int]) -> dict[str, Any]:
    turn = {"prompt": prompt, "session_id": session, "max_tokens": MAX_TOKENS}
    return {**turn, "ignore_eos": True, "stream": True}


def dropped(url: str, key: str, request: dict[str, Any], *, after: int, reset: bool) -> bytes:
    """Ask, read `after` bytes (or all, if there are fewer), leave; HTTP/1.0, so that nothing is chunked."""
    address = httpx.URL(url)
    data = json.dumps(request).encode()
    head = f"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n"
    got = b""
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        while len(got) < after and (more := connection.recv(after - len(got))):
            got += more
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return got


def acknowledged(stream: bytes) -> str:
    """The text of all events that arrived whole."""
    whole = stream.partition(b"\r\n\r\n")[2].split(b"\n\n")[:-1]
    data = [event.removeprefix(b"data: ") for event in whole]
    chunks = [json.loads(each) for each in data if each != b"[DONE]"]
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


def settle(url: str, key: str, request: dict[str, Any]) -> str:
    """Send the same turn again until it is certain: "already_learned", or "learned" just now."""
    while True:
        answer = httpx.post(
            f"{url}/v1/completions", json=request, headers={"Idempotency-Key": key}, timeout=60
        )
        if answer.status_code == 200:
            return "learned"
        if (found := answer.json()["error"]["code"]) != "session_busy":
            return str(found)


def turn_of(events: list[Event], prompt: list[int]) -> list[Event]:
    """The entries from the prompt on, which must be there once."""
    tokens = [event.token for event in events]
    starts = [at for at in range(len(tokens)) if tokens[at : at + len(prompt)] == prompt]
    assert len(starts) == 1, f"the prompt is in the journal {len(starts)} times"
    return events[starts[0] :]


class Drops:
    """One session that clients leave again and again."""

    def __init__(self, client: Client, url: str) -> None:
        self.client = client
        self.url = url
        self.session = client.sessions.create().id
        self.turns = 0
        self.cut = 0

    def one(self, after: int, reset: bool) -> None:
        self.turns += 1
        prompt = [4000, self.turns // 3000, self.turns % 3000, 4001]
        request, key = body(self.session, prompt), f"turn-{self.turns}"
        head = self.client.sessions.get(self.session).seq
        stream = dropped(self.url, key, request, after=after, reset=reset)
        text = acknowledged(stream)
        if text:
            self.compare(head, prompt, text)  # at once: it was committed before it was sent
        self.cut += b"[DONE]" not in stream
        settled = settle(self.url, key, request)
        assert settled == "already_learned" or not text
        self.compare(head, prompt, text)

    def compare(self, head: int, prompt: list[int], text: str) -> None:
        page = self.client.sessions.events(self.session, after=head, limit=1000).events
        assert [event.seq for event in page] == list(range(head + 1, head + 1 + len(page)))
        events = turn_of(page, prompt)
        assert {event.origin for event in events[: len(prompt)]} == {"text"}
        answer = events[len(prompt) :]
        assert {event.origin for event in answer} <= {"model"}
        assert len(answer) <= MAX_TOKENS
        assert "".join(event.text or "" for event in answer).startswith(text)


@pytest.mark.parametrize("examples", [25, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_client_that_leaves_has_what_the_journal_has(server: Any, client: Client, examples: int) -> None:
    drops = Drops(client, server.url)

    @settings(max_examples=examples, database=None)
    @given(after=st.integers(0, STREAM_BYTES), reset=st.booleans())
    def leave(after: int, reset: bool) -> None:
        drops.one(after, reset)

    leave()
    assert drops.cut > examples // 5
    assert client.sessions.get(drops.session).seq == client.sessions.levels(drops.session).levels[0].tokens
