from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hope_server.errors import QueueFull, SessionCorrupted, StoreUnavailable

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

URL = "/v1/chat/completions"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def events(answer: httpx.Response) -> list[Any]:
    """The parsed events of a stream, which has nothing but `data:` lines and empty ones."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    *parts, last = answer.text.split("\n\n")
    assert last == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


async def test_an_answer_in_one_body(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    answer = await http.post(URL, json={"model": "hope-test", "messages": [user("hi")]})
    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "hope-test"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    # <|user|> h i <|end|> <|assistant|>; 11 letters and <|end|>
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}
    assert engine.read() == [3, 6 + ord("h"), 6 + ord("i"), 1, 4]


async def test_a_stream_is_role_then_text_then_end(http: httpx.AsyncClient) -> None:
    *chunks, done = events(await http.post(URL, json={"messages": [user("hi")], "stream": True}))
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas[1:-1]) == "Hello there"
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 12 + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_last_and_only_when_asked_for(http: httpx.AsyncClient) -> None:
    options = {"include_usage": True}
    asked = {"messages": [user("hi")], "stream": True, "stream_options": options}
    *chunks, last, _ = events(await http.post(URL, json=asked))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}
    assert all("usage" not in chunk for chunk in chunks)


async def test_running_usage(http: httpx.AsyncClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = {"messages": [user("hi")], "stream": True, "stream_options": options}
    _, *chunks, _ = events(await http.post(URL, json=asked))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == [*range(1, 12), 12, 12]


async def test_half_a_character_is_never_sent(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says("größer €5 🙂")
    _, *chunks, _ = events(await http.post(URL, json={"messages": [user("hi")], "stream": True}))
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert texts == [*"größer €5 🙂", None]


async def test_a_stop_string_ends_the_turn_and_is_not_shown(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says("one two three")
    asked = {"messages": [user("hi")], "stop": ["two"], "stream": True}
    _, *chunks, _ = events(await http.post(URL, json=asked))
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(texts) == "one "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    whole = await http.post(URL, json={**asked, "stream": False})
    assert whole.json()["choices"][0]["message"]["content"] == "one "
    assert whole.json()["usage"]["completion_tokens"] == len("one two")


async def test_max_tokens_under_either_name(http: httpx.AsyncClient) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = await http.post(URL, json={"messages": [user("hi")], name: 5})
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"
        assert answer.json()["choices"][0]["finish_reason"] == "length"


async def test_sampling_reaches_the_engine(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    options = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": -3, "ignore_eos": True}
    await http.post(URL, json={"messages": [user("hi")], **options})
    sampling = engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert sampling.ignore_eos
    assert sampling.seed is not None
    assert sampling.seed >= 0
    assert sampling.stop_token_ids == {0, 1}


async def test_without_a_session_every_message_is_read(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind"}]
    messages = [{"role": "system", "content": parts}, user("a"), assistant("b"), user("c")]
    await http.post(URL, json={"messages": messages})
    request = engine.requests[-1]
    assert [part.origin for part in request.prompt] == ["system", "user", "model", "user"]
    assert request.session is None
    assert request.transcript is None
    assert engine.read()[:9] == [2, *(6 + byte for byte in b"Be kind"), 1]


async def test_a_session_reads_only_what_is_new(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    headers = {"X-Session-ID": session}
    history = [user("hi")]
    first = await http.post(URL, json={"messages": history}, headers=headers)
    history += [first.json()["choices"][0]["message"], user("more")]
    second = await http.post(URL, json={"messages": history}, headers=headers)
    assert engine.read() == [3, *(6 + byte for byte in b"more"), 1, 4]
    assert second.json()["usage"]["prompt_tokens"] == 7
    third = await http.post(URL, json={"messages": [user("only new")], "session_id": session})
    assert third.status_code == 200
    assert (await engine.meta(session)).transcript.count == 6


async def test_an_edited_past_is_a_conflict_and_changes_nothing(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    headers = {"X-Session-ID": session}
    await http.post(URL, json={"messages": [user("hi")]}, headers=headers)
    before = await engine.meta(session)
    edited = [user("hi"), assistant("something else"), user("more")]
    answer = await http.post(URL, json={"messages": edited}, headers=headers)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "conversation_diverged"
    assert answer.headers["x-should-retry"] == "false"
    assert await engine.meta(session) == before


async def test_a_conversation_without_a_new_message_is_refused(http: httpx.AsyncClient, session: str) -> None:
    headers = {"X-Session-ID": session}
    first = await http.post(URL, json={"messages": [user("hi")]}, headers=headers)
    history = [user("hi"), first.json()["choices"][0]["message"]]
    answer = await http.post(URL, json={"messages": history}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "empty_prompt")


@pytest.mark.parametrize("action", ["freeze", "rollback"])
async def test_what_has_no_token_hides_no_answer_that_was_cut(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str, action: str
) -> None:
    """The chat's last token is that which the state has read last."""
    body = {"messages": [{"role": "user", "content": "a"}], "session_id": session, "max_tokens": 2}
    await http.post(URL, json=body)
    head = (await engine.meta(session)).seq
    if action == "freeze":
        await engine.freeze(session, head)
    else:
        await http.post("/v1/completions", json={"prompt": "x", "session_id": session})
        await http.post(f"/v1/sessions/{session}/rollback", json={"seq": head})
    await http.post(URL, json={**body, "messages": [{"role": "user", "content": "b"}]})
    assert engine.read() == [1, 3, 6 + ord("b"), 1, 4]


async def test_an_answer_cut_by_its_length_is_ended_by_the_next_turn(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    first = {"messages": [user("hi")], "max_tokens": 5, "session_id": session}
    await http.post(URL, json=first)
    messages = [user("hi"), assistant("Hello"), user("a")]
    await http.post(URL, json={"messages": messages, "session_id": session})
    assert engine.read() == [1, 3, 6 + ord("a"), 1, 4]
    await http.post(URL, json={"messages": [user("b")], "session_id": session})
    assert engine.read() == [3, 6 + ord("b"), 1, 4]


async def test_a_reset_session_reads_the_conversation_again(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    await http.post(URL, json={"messages": [user("hi")], "session_id": session})
    await http.post(f"/v1/sessions/{session}/reset")
    answer = await http.post(URL, json={"messages": [user("hi")], "session_id": session})
    assert answer.status_code == 200
    assert engine.read() == [3, 6 + ord("h"), 6 + ord("i"), 1, 4]


async def test_a_retried_turn_is_not_learned_again(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    headers = {"X-Session-ID": session, "Idempotency-Key": "turn-1"}
    first = await http.post(URL, json={"messages": [user("hi")]}, headers=headers)
    assert first.status_code == 200
    again = await http.post(URL, json={"messages": [user("hi")]}, headers=headers)
    error = again.json()["error"]
    assert (again.status_code, error["code"]) == (409, "already_learned")
    assert (error["first_seq"], error["last_seq"]) == (1, 17)
    assert again.headers["x-should-retry"] == "false"
    assert len(engine.requests) == 1


async def test_one_turn_at_a_time(http: httpx.AsyncClient, engine: ScriptedEngine, session: str) -> None:
    import asyncio

    engine.pause_at = 3
    asked = {"messages": [user("hi")], "session_id": session}
    first = asyncio.create_task(http.post(URL, json=asked))
    await engine.paused.wait()
    for second in (
        http.post(URL, json=asked),
        http.post(f"/v1/sessions/{session}/reset"),
        http.delete(f"/v1/sessions/{session}"),
    ):
        answer = await second
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_busy")
        assert answer.headers["x-should-retry"] == "true"
        assert int(answer.headers["retry-after"]) >= 1
    engine.resume.set()
    assert (await first).status_code == 200
    assert (await http.post(URL, json={"messages": [user("x")], "session_id": session})).is_success


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status", "code", "retry"),
    [
        (QueueFull("128 turns wait"), 429, "queue_full", "true"),
        (StoreUnavailable("the store does not answer"), 503, "store_unavailable", "true"),
        (RuntimeError("secret detail"), 500, "internal_error", "false"),
    ],
)
async def test_a_refusal_has_its_status_also_for_a_stream(
    http: httpx.AsyncClient,
    engine: ScriptedEngine,
    stream: bool,
    refusal: Exception,
    status: int,
    code: str,
    retry: str,
) -> None:
    engine.refusal = refusal
    answer = await http.post(URL, json={"messages": [user("hi")], "stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["x-should-retry"] == retry
    assert ("retry-after" in answer.headers) == (retry == "true")
    assert "secret" not in answer.text


async def test_an_error_inside_a_stream_is_an_event(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.failure = (4, SessionCorrupted("the state became non-finite"))
    *chunks, last = events(await http.post(URL, json={"messages": [user("hi")], "stream": True}))
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "Hell"
    assert last["error"]["code"] == "session_corrupted"
    assert last["error"]["type"] == "server_error"


async def test_an_error_midway_fails_a_whole_answer(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.failure = (4, SessionCorrupted("the state became non-finite"))
    answer = await http.post(URL, json={"messages": [user("hi")]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "session_corrupted")
