"""OpenAI's client with its own timeouts and retries against a real server: nothing is learned twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from hope_client import Client

ENDLESS: dict[str, Any] = {"ignore_eos": True, "temperature": 1.0, "seed": 1}
PROMPT = [300, 411, 522]


def openai_client(url: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", **options)


def test_a_turn_that_timed_out_is_not_learned_again(server: Any, client: Client) -> None:
    """Its retries find it learned; the server has stopped to answer it."""
    session = client.sessions.create().id
    with (
        openai_client(server.url, timeout=1.0, max_retries=4) as impatient,
        pytest.raises(openai.ConflictError) as refused,
    ):
        impatient.completions.create(
            model="hope-tiny",
            prompt=PROMPT,
            max_tokens=8000,
            extra_headers={"X-Session-ID": session},
            extra_body=ENDLESS,
        )
    assert refused.value.code == "already_learned"
    journal = [event.token for event in client.sessions.events(session, limit=10_000).events]
    assert journal[:3] == PROMPT
    assert 3 < len(journal) < 8000
    client.completions([1000], session_id=session, max_tokens=1)
    again = client.sessions.events(session, limit=10_000).events
    assert [event.token for event in again][: len(journal) + 1] == [*journal, 1000]


def test_a_stream_that_is_closed_is_not_generated_to_its_end(server: Any, client: Client) -> None:
    session = client.sessions.create().id
    with openai_client(server.url) as ours:
        stream = ours.completions.create(
            model="hope-tiny",
            prompt=PROMPT,
            max_tokens=8000,
            stream=True,
            extra_headers={"X-Session-ID": session},
            extra_body=ENDLESS,
        )
        text = "".join(next(stream).choices[0].text for _ in range(5))
        stream.close()
        ours.completions.create(
            model="hope-tiny", prompt=[1000], max_tokens=1, extra_headers={"X-Session-ID": session}
        )
    events = client.sessions.events(session, limit=10_000).events
    answer = [event for event in events[3:-2] if event.origin == "model"]
    assert "".join(event.text or "" for event in answer).startswith(text)
    assert len(answer) < 1000


@pytest.fixture
def full(start_server: Any) -> Iterator[tuple[Any, Any]]:
    """A server whose one slot is taken, and the stream that takes it."""
    server = start_server("--slots", "1", "--max-waiting", "0")
    with server.client() as client:
        stream = client.completions(PROMPT, max_tokens=8000, stream=True, **ENDLESS)
        next(stream)
        yield server, stream
        stream.close()


def test_a_full_server_says_when_to_come_again_and_retries_are_served(full: tuple[Any, Any]) -> None:
    server, stream = full
    with openai_client(server.url, max_retries=0) as once, pytest.raises(openai.RateLimitError) as refused:
        once.completions.create(model="hope-tiny", prompt=PROMPT, max_tokens=1)
    assert refused.value.code == "queue_full"
    assert float(refused.value.response.headers["retry-after"]) > 0
    statuses: list[int] = []

    def leave(response: Any) -> None:
        statuses.append(response.status_code)
        stream.close()

    hooked: Any = httpx.Client(event_hooks={"response": [leave]})
    with openai_client(server.url, max_retries=5, http_client=hooked) as patient:
        answer = patient.completions.create(model="hope-tiny", prompt=PROMPT, max_tokens=1)
    assert answer.choices[0].finish_reason == "length"
    assert statuses[0] == 429
    assert statuses[-1] == 200
