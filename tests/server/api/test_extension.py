"""The field `hope` of an answer: what the turn did to its session."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("body", [{"prompt": "ab"}, {"messages": HI}], ids=["text", "chat"])
@pytest.mark.parametrize("own", [False, True])
async def test_an_answer_tells_what_was_learned(
    http: httpx.AsyncClient, session: str, body: Any, own: bool
) -> None:
    url = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    body = {**body, "max_tokens": 3, **({"session_id": session} if own else {})}
    whole = (await http.post(url, json=body)).json()
    read = whole["usage"]["total_tokens"]
    expected = {
        "learned_tokens": read,
        "level_writes": {"phi": read},
        "drift": {"phi": 0.5},
        "learning": "on",
    }
    place = {"session": session if own else None, "seq": read if own else None}
    assert whole["hope"] == {**place, **expected}
    if own:
        await http.post(f"/v1/sessions/{session}/rollback", json={"seq": 0})
    stream = await http.post(url, json={**body, "stream": True})
    chunks = [json.loads(line.removeprefix("data: ")) for line in stream.text.split("\n\n")[:-2]]
    assert [chunk.get("hope") is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["hope"]["level_writes"] == {"phi": read}


async def test_a_session_that_learns_no_more_says_so_wherever_it_answers(
    http: httpx.AsyncClient, engine: Any, session: str
) -> None:
    """Status 200 all along; a reset session, and what was before the freeze, learn."""
    conversation = (await http.post("/v1/conversations", json={})).json()["id"]
    chat = (await http.post("/v1/sessions")).json()["id"]
    asked = {
        session: ("/v1/completions", {"prompt": "ab", "session_id": session}),
        chat: ("/v1/chat/completions", {"messages": HI, "session_id": chat}),
        conversation.removeprefix("conv_"): (
            "/v1/responses",
            {"input": "hi", "conversation": conversation},
        ),
    }
    for own, (url, body) in asked.items():
        for learning in ("on", "frozen"):
            answer = await http.post(url, json=body)
            assert (answer.status_code, answer.json()["hope"]["learning"]) == (200, learning), url
            if learning == "on":
                await engine.freeze(own, (await engine.meta(own)).seq)
    url = f"/v1/sessions/{session}"
    assert (await http.get(url)).json()["learning"] == "frozen"
    events = (await http.get(f"{url}/events")).json()["events"]
    (said,) = [event["seq"] for event in events if event["kind"] == "freeze"]
    for action, seq, learning in (
        ("rollback", said - 1, "on"),
        ("rollback", said, "frozen"),
        ("fork", said - 1, "on"),
        ("fork", said, "frozen"),
        ("reset", None, "on"),
    ):
        answer = await http.post(f"{url}/{action}", json=None if seq is None else {"seq": seq})
        assert answer.json()["learning"] == learning, action


async def test_several_choices_tell_nothing(http: httpx.AsyncClient) -> None:
    whole = (await http.post("/v1/completions", json={"prompt": "a", "n": 2})).json()
    assert "hope" not in whole
    stream = await http.post("/v1/completions", json={"prompt": "a", "n": 2, "stream": True})
    assert '"hope"' not in stream.text
