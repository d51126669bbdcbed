"""`learn` of a request: how each endpoint takes it, and where the API shows it."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

ENDPOINTS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/responses": {"input": "Hi"},
}


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("learn", [None, "on", "off"])
async def test_every_generating_endpoint_takes_it(
    http: httpx.AsyncClient, engine: Any, path: str, learn: str | None
) -> None:
    answer = await http.post(path, json={**ENDPOINTS[path], "learn": learn})
    assert answer.status_code == 200, answer.text
    assert [request.learn for request in engine.requests] == [learn != "off"]


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("found", ["no", True, "OFF"])
async def test_what_is_neither_on_nor_off_is_refused(
    http: httpx.AsyncClient, engine: Any, path: str, found: Any
) -> None:
    answer = await http.post(path, json={**ENDPOINTS[path], "learn": found})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "learn"), error
    assert not engine.requests


async def test_the_journal_shows_it(http: httpx.AsyncClient, session: str) -> None:
    for learn in ("on", "off"):
        body = {"prompt": [1, 2], "max_tokens": 1, "session_id": session, "learn": learn}
        assert (await http.post("/v1/completions", json=body)).status_code == 200
    events = (await http.get(f"/v1/sessions/{session}/events")).json()["events"]
    assert [event["learn"] for event in events] == ["on"] * 3 + ["off"] * 3


async def test_openais_client_sends_it_as_an_extra(client: openai.AsyncOpenAI, engine: Any) -> None:
    await client.chat.completions.create(
        model="hope-test", messages=[{"role": "user", "content": "Hi"}], extra_body={"learn": "off"}
    )
    await client.responses.create(model="hope-test", input="Hi", extra_body={"learn": "off"})
    assert [request.learn for request in engine.requests] == [False, False]
