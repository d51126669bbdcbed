"""Both clients against a real server on loopback: what they send, what they read, what they raise."""

import json
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hope_client
from hope_client import wire

if TYPE_CHECKING:
    from tests.clients.conftest import Flavour, Loopback

_SESSION = {
    "id": "s1",
    "object": "session",
    "name": "n",
    "created_at": 1.5,
    "model": "m",
    "seq": 7,
    "tokens": 5,
    "learning": "on",
}
_READ = {"role": "assistant", "text": "hé", "first_seq": 4, "last_seq": 6, "finished": True, "learn": "off"}
_USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
_HEAD = {"id": "c", "created": 1, "model": "m"}
_ANSWER = {
    **_HEAD,
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hé"}, "finish_reason": "stop"}],
    "usage": _USAGE,
}


def _event(data: object) -> bytes:
    return (
        b"data: "
        + (data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False).encode())
        + b"\n\n"
    )


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}


_MODEL = {"id": "m/n", "object": "model", "created": 1, "owned_by": "hope"}
_CONVERSATION = {"id": "conv_s", "object": "conversation", "created_at": 1, "metadata": {"k": "v"}}
_MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "hé", "annotations": [], "logprobs": []}],
}
_ITEMS = {"object": "list", "data": [_MESSAGE], "first_id": "msg_1", "last_id": "msg_1", "has_more": False}
_RESPONSE = wire.ResponseObject.model_validate(
    {
        "id": "resp_s_1",
        "created_at": 1.5,
        "status": "completed",
        "model": "m",
        "output": [_MESSAGE],
        "parallel_tool_calls": True,
        "temperature": 1,
        "top_p": 1,
        "tool_choice": "auto",
        "tools": [],
        "text": {"format": {"type": "text"}},
        "store": True,
        "metadata": {},
        "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    }
).model_dump(mode="json")


def _event_of(kind: str, **more: object) -> bytes:
    return f"event: {kind}\n".encode() + _event({"type": kind, "sequence_number": 0, **more})


_STREAM = b"".join(
    [
        _event(_chunk({"role": "assistant", "content": ""})),
        _event(_chunk({"content": "hé"})),
        b": ping\n\n",
        _event(_chunk({"content": "llo"})),
        _event(_chunk({}, "length")),
        _event({**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE}),
        _event(b"[DONE]"),
    ]
)


def test_a_turn_sends_only_what_was_given(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.json(_ANSWER)
    answer = flavour.call(
        lambda client: client.chat("hi", session_id="s1", temperature=0.5, seed=None),
        loopback.url,
        api_key="k",
    )
    assert answer.choices[0].message.content == "hé"
    assert answer.usage == wire.Usage(**_USAGE)
    (seen,) = loopback.seen
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.body == {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}
    assert seen.headers["x-session-id"] == "s1"
    assert seen.headers["authorization"] == "Bearer k"
    assert len(seen.headers["idempotency-key"]) == 36


def test_an_ephemeral_completion_of_token_ids(loopback: "Loopback", flavour: "Flavour") -> None:
    choice = {"index": 0, "text": "t", "finish_reason": "stop"}
    loopback.json({**_HEAD, "object": "text_completion", "choices": [choice], "usage": _USAGE})
    answer = flavour.call(lambda client: client.completions((1, 2), max_tokens=4), f"{loopback.url}/v1/")
    assert answer.choices[0].text == "t"
    assert loopback.seen[0].body == {"prompt": [1, 2], "max_tokens": 4}
    assert "x-session-id" not in loopback.seen[0].headers


def test_lists_of_prompts_and_steering_are_sent_as_the_wire_has_them(
    loopback: "Loopback", flavour: "Flavour"
) -> None:
    choice = {"index": 0, "text": "t", "finish_reason": "stop"}
    loopback.json({**_HEAD, "object": "text_completion", "choices": [choice], "usage": _USAGE})
    more = {"n": 2, "logit_bias": {5: 1.5}, "logprobs": 1, "echo": True, "presence_penalty": 0.5}
    flavour.call(lambda client: client.completions([(1, 2), (3,)], **more), loopback.url)
    assert loopback.seen[0].body == {
        "prompt": [[1, 2], [3]],
        "n": 2,
        "logit_bias": {"5": 1.5},
        "logprobs": 1,
        "echo": True,
        "presence_penalty": 0.5,
    }


def test_the_text_of_a_stream_is_the_first_choice_s(loopback: "Loopback") -> None:
    chunks = [
        {**_chunk({}), "choices": [{"index": index, "delta": {"content": text}}]}
        for index, text in ((0, "a"), (1, "x"), (0, "b"))
    ]
    loopback.stream([*map(_event, chunks), _event(b"[DONE]")])
    with hope_client.Client(loopback.url) as client, client.chat("hi", stream=True, n=2) as stream:
        assert list(stream.text()) == ["a", "b"]


def test_each_turn_has_a_key_of_its_own_or_the_caller_s(loopback: "Loopback", flavour: "Flavour") -> None:
    for _ in range(3):
        loopback.json(_ANSWER)
    flavour.call(lambda client: client.chat("hi"), loopback.url)
    flavour.call(lambda client: client.chat("hi", idempotency_key=None), loopback.url)
    flavour.call(lambda client: client.chat("hi", idempotency_key="mine"), loopback.url)
    first, second, third = (seen.headers["idempotency-key"] for seen in loopback.seen)
    assert first != second
    assert third == "mine"


def test_a_stream_gives_chunks_text_usage_and_finish_reason(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.stream([_STREAM])
    result = flavour.call(
        lambda client: client.chat("hi", stream=True, include_usage=True, session_id="s1"), loopback.url
    )
    assert result.texts == ["hé", "llo"]
    assert len(result.chunks) == 5
    assert result.usage.total_tokens == 3
    assert result.finish_reason == "length"
    assert loopback.seen[0].body["stream"] is True
    assert loopback.seen[0].body["stream_options"] == {"include_usage": True}


def test_a_stream_can_report_its_usage_as_it_goes(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.stream([_STREAM])
    flavour.call(lambda client: client.chat("hi", stream=True, continuous_usage=True), loopback.url)
    asked = {"include_usage": True, "continuous_usage_stats": True}
    assert loopback.seen[0].body["stream_options"] == asked


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, len(_STREAM) - 1), max_size=8, unique=True))
def test_a_stream_cut_anywhere_gives_the_same_text(
    loopback: "Loopback", flavour: "Flavour", cuts: list[int]
) -> None:
    bounds = [0, *sorted(cuts), len(_STREAM)]
    loopback.stream([_STREAM[start:stop] for start, stop in pairwise(bounds)])
    result = flavour.call(lambda client: client.chat("hi", stream=True), loopback.url)
    assert result.texts == ["hé", "llo"]


def test_text_iterates_over_the_pieces(loopback: "Loopback") -> None:
    loopback.stream([_STREAM])
    with hope_client.Client(loopback.url) as client, client.chat("hi", stream=True) as stream:
        assert list(stream.text()) == ["hé", "llo"]


async def test_async_text_iterates_over_the_pieces(loopback: "Loopback") -> None:
    loopback.stream([_STREAM])
    async with (
        hope_client.AsyncClient(loopback.url) as client,
        await client.chat("hi", stream=True) as stream,
    ):
        assert [piece async for piece in stream.text()] == ["hé", "llo"]


def test_closing_a_stream_hangs_up(loopback: "Loopback") -> None:
    loopback.stream([_STREAM[:200]], ending="hang")
    with hope_client.Client(loopback.url) as client, client.chat("hi", stream=True) as stream:
        next(stream)
    assert loopback.hang_up.wait(10)


async def test_closing_an_async_stream_hangs_up(loopback: "Loopback") -> None:
    loopback.stream([_STREAM[:200]], ending="hang")
    async with (
        hope_client.AsyncClient(loopback.url) as client,
        await client.chat("hi", stream=True) as stream,
    ):
        await anext(stream)
    assert loopback.hang_up.wait(10)


def test_a_stream_to_its_end_keeps_the_connection(loopback: "Loopback") -> None:
    loopback.stream([_STREAM])
    loopback.json({"status": "ok"})
    with hope_client.Client(loopback.url) as client:
        list(client.chat("hi", stream=True))
        client.health()
    assert loopback.connections == 1


def test_a_stream_that_breaks_off_is_an_error_after_its_text(
    loopback: "Loopback", flavour: "Flavour"
) -> None:
    loopback.stream([_STREAM[:400]], ending="cut")
    with pytest.raises(hope_client.APIConnectionError):
        flavour.call(lambda client: client.chat("hi", stream=True), loopback.url)
    assert len(loopback.seen) == 1, "a stream that began is never asked for again"


def test_a_stream_without_its_end_mark_is_an_error(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.stream([_STREAM.removesuffix(_event(b"[DONE]"))])
    with pytest.raises(hope_client.APIConnectionError, match=r"ended before \[DONE\]"):
        flavour.call(lambda client: client.chat("hi", stream=True), loopback.url)


def test_an_error_inside_a_stream_comes_after_the_text_before_it(loopback: "Loopback") -> None:
    error = {"error": {"message": "m", "type": "server_error", "param": None, "code": "session_corrupted"}}
    loopback.stream([_event(_chunk({"content": "a"})) + _event(error)])
    with hope_client.Client(loopback.url) as client, client.chat("hi", stream=True) as stream:
        pieces = stream.text()
        assert next(pieces) == "a"
        with pytest.raises(hope_client.StreamError) as caught:
            next(pieces)
    assert caught.value.code == "session_corrupted"


def test_a_text_that_speaks_of_errors_is_only_text(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.stream([_event(_chunk({"content": '{"error": 1}'})), _event(b"[DONE]")])
    result = flavour.call(lambda client: client.chat("hi", stream=True), loopback.url)
    assert result.texts == ['{"error": 1}']


@pytest.mark.parametrize("event", [b"nonsense", b'{"choices": 5}', b"[]"])
def test_a_chunk_of_something_else_is_a_protocol_error(
    loopback: "Loopback", flavour: "Flavour", event: bytes
) -> None:
    loopback.stream([_event(event)])
    with pytest.raises(hope_client.ProtocolError):
        flavour.call(lambda client: client.chat("hi", stream=True), loopback.url)


def test_a_streamed_response_gives_its_text_its_end_and_its_usage(
    loopback: "Loopback", flavour: "Flavour"
) -> None:
    pieces = [
        _event_of("response.created", response={**_RESPONSE, "status": "in_progress"}),
        _event_of("response.output_text.delta", delta="hé", output_index=0, content_index=0, item_id="m"),
        _event_of("response.output_text.done", text="hé"),
        _event_of("response.completed", response=_RESPONSE),
    ]
    loopback.stream(pieces)
    found = flavour.call(lambda client: client.responses.create("hi", stream=True), loopback.url)
    assert [chunk.type for chunk in found.chunks][-1] == "response.completed"
    assert (found.finish_reason, found.usage) == ("stop", wire.Usage(**_USAGE))
    assert found.chunks[-1].response.output_text == "hé"
    assert loopback.seen[0].body == {"input": "hi", "stream": True}


def test_a_streamed_response_that_fails_or_is_cut_raises(loopback: "Loopback", flavour: "Flavour") -> None:
    failed = {**_RESPONSE, "status": "failed", "error": {"code": "internal_error", "message": "a bug"}}
    loopback.stream([_event_of("response.failed", response=failed)])
    with pytest.raises(hope_client.StreamError, match="a bug") as raised:
        flavour.call(lambda client: client.responses.create("hi", stream=True), loopback.url)
    assert raised.value.code == "internal_error"
    loopback.stream([_event_of("response.output_text.delta", delta="h")])
    with pytest.raises(hope_client.APIConnectionError):
        flavour.call(lambda client: client.responses.create("hi", stream=True), loopback.url)


def test_an_answer_that_is_no_stream_is_a_protocol_error(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.json(_ANSWER)
    with pytest.raises(hope_client.ProtocolError, match="expected a stream of text/event-stream"):
        flavour.call(lambda client: client.chat("hi", stream=True), loopback.url)


@pytest.mark.parametrize("content", [b"<html>", b"{}", b'{"id": 5}', b"\xff"])
def test_an_answer_of_something_else_is_a_protocol_error(
    loopback: "Loopback", flavour: "Flavour", content: bytes
) -> None:
    loopback.raw(200, content, {})
    with pytest.raises(hope_client.ProtocolError):
        flavour.call(lambda client: client.sessions.get("s1"), loopback.url)


def test_a_redirect_is_a_protocol_error(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.raw(307, b"", {"Location": "http://elsewhere.test/"})
    with pytest.raises(hope_client.ProtocolError, match="status 307"):
        flavour.call(lambda client: client.chat("hi"), loopback.url)


_LEVEL = {
    "name": "phi",
    "period": 1,
    "tokens": 9,
    "writes": 9,
    "refused": 1,
    "frequency": 1.0,
    "drift_ratio": 0.5,
    "bytes": 64,
}
_RESOURCES: list[tuple[Any, str, str, object, object]] = [
    (lambda c: c.sessions.create("n"), "POST", "/v1/sessions", {"name": "n"}, _SESSION),
    (lambda c: c.sessions.create(), "POST", "/v1/sessions", {}, _SESSION),
    (lambda c: c.sessions.get("s1"), "GET", "/v1/sessions/s1", None, _SESSION),
    (lambda c: c.sessions.get("../a b"), "GET", "/v1/sessions/..%2Fa%20b", None, _SESSION),
    (
        lambda c: c.sessions.list(after="s0", limit=5),
        "GET",
        "/v1/sessions?limit=5&after=s0",
        None,
        {"object": "list", "data": [_SESSION], "last_id": "s1", "has_more": True},
    ),
    (
        lambda c: c.sessions.delete("s1"),
        "DELETE",
        "/v1/sessions/s1",
        None,
        {"id": "s1", "object": "session.deleted", "deleted": True},
    ),
    (
        lambda c: c.sessions.rename("s1", "née"),
        "PATCH",
        "/v1/sessions/s1",
        {"name": "née"},
        _SESSION,
    ),
    (
        lambda c: c.sessions.loss("s1", tokens=64),
        "GET",
        "/v1/sessions/s1/loss?tokens=64",
        None,
        {
            "object": "session.loss",
            "from_seq": 256,
            "to_seq": 300,
            "tokens": 28,
            "with_memory": 3.5,
            "without_memory": None,
        },
    ),
    (
        lambda c: c.sessions.messages("s1", after=3, limit=2),
        "GET",
        "/v1/sessions/s1/messages?after=3&limit=2",
        None,
        {"object": "list", "data": [_READ], "has_more": False},
    ),
    (lambda c: c.sessions.reset("s1"), "POST", "/v1/sessions/s1/reset", None, _SESSION),
    (lambda c: c.sessions.fork("s1"), "POST", "/v1/sessions/s1/fork", {}, _SESSION),
    (
        lambda c: c.sessions.fork("s1", seq=3, name="n"),
        "POST",
        "/v1/sessions/s1/fork",
        {"seq": 3, "name": "n"},
        _SESSION,
    ),
    (
        lambda c: c.sessions.rollback("s1", seq=0),
        "POST",
        "/v1/sessions/s1/rollback",
        {"seq": 0},
        _SESSION,
    ),
    (
        lambda c: c.sessions.verify("s1"),
        "POST",
        "/v1/sessions/s1/verify",
        None,
        {
            "object": "session.verification",
            "seq": 3,
            "tokens": 2,
            "head_sha256": "a",
            "replayed_sha256": "b",
            "restored_sha256": "c",
            "snapshot_seq": 0,
            "equal": False,
        },
    ),
    (lambda c: c.sessions.levels("s1"), "GET", "/v1/sessions/s1/levels", None, {"levels": [_LEVEL]}),
    (
        lambda c: c.sessions.events("s1", after=3),
        "GET",
        "/v1/sessions/s1/events?after=3&limit=1000",
        None,
        {
            "events": [
                {"seq": 4, "kind": "run", "token": 5, "text": "a", "origin": "user", "learn": "off"},
                {"seq": 5, "kind": "reset", "token": None, "text": None, "origin": "user", "learn": "on"},
            ],
            "head": 5,
        },
    ),
    (
        lambda c: c.models(),
        "GET",
        "/v1/models",
        None,
        {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "hope"}]},
    ),
    (lambda c: c.health(), "GET", "/health", None, {"status": "ok"}),
    (
        lambda c: c.tokenize("a", return_token_strs=True),
        "POST",
        "/tokenize",
        {"prompt": "a", "return_token_strs": True},
        {"count": 1, "max_model_len": 9, "tokens": [1], "token_strs": ["a"]},
    ),
    (
        lambda c: c.tokenize([{"role": "user", "content": "a"}]),
        "POST",
        "/tokenize",
        {"messages": [{"role": "user", "content": "a"}]},
        {"count": 1, "max_model_len": 9, "tokens": [1]},
    ),
    (lambda c: c.model("m/n"), "GET", "/v1/models/m%2Fn", None, _MODEL),
    (lambda c: c.ready(), "GET", "/ready", None, {"status": "ready", "reason": None}),
    (
        lambda c: c.conversations.item("conv_s", "msg_1"),
        "GET",
        "/v1/conversations/conv_s/items/msg_1",
        None,
        _MESSAGE,
    ),
    (lambda c: c.responses.get("resp_s_1"), "GET", "/v1/responses/resp_s_1", None, _RESPONSE),
    (
        lambda c: c.responses.create(
            [{"role": "user", "content": "a"}], conversation="conv_s", store=True, metadata={"k": "v"}
        ),
        "POST",
        "/v1/responses",
        {
            "input": [{"role": "user", "content": "a"}],
            "conversation": "conv_s",
            "store": True,
            "metadata": {"k": "v"},
        },
        _RESPONSE,
    ),
    (
        lambda c: c.responses.delete("resp_s_1"),
        "DELETE",
        "/v1/responses/resp_s_1",
        None,
        {"id": "resp_s_1", "object": "response.deleted", "deleted": True},
    ),
    (
        lambda c: c.responses.input_items("resp_s_1", after="msg_1", order="asc"),
        "GET",
        "/v1/responses/resp_s_1/input_items?limit=20&order=asc&after=msg_1",
        None,
        _ITEMS,
    ),
    (
        lambda c: c.conversations.create([{"role": "user", "content": "a"}]),
        "POST",
        "/v1/conversations",
        {"items": [{"role": "user", "content": "a"}]},
        _CONVERSATION,
    ),
    (lambda c: c.conversations.get("conv_s"), "GET", "/v1/conversations/conv_s", None, _CONVERSATION),
    (
        lambda c: c.conversations.update("conv_s", metadata={"k": "w"}),
        "POST",
        "/v1/conversations/conv_s",
        {"metadata": {"k": "w"}},
        _CONVERSATION,
    ),
    (
        lambda c: c.conversations.delete("conv_s"),
        "DELETE",
        "/v1/conversations/conv_s",
        None,
        {"id": "conv_s", "object": "conversation.deleted", "deleted": True},
    ),
    (
        lambda c: c.conversations.items("conv_s", limit=3),
        "GET",
        "/v1/conversations/conv_s/items?limit=3&order=desc",
        None,
        _ITEMS,
    ),
    (
        lambda c: c.conversations.add("conv_s", [{"role": "user", "content": "a"}]),
        "POST",
        "/v1/conversations/conv_s/items",
        {"items": [{"role": "user", "content": "a"}]},
        _ITEMS,
    ),
    (
        lambda c: c.conversations.remove("conv_s", "msg_1"),
        "DELETE",
        "/v1/conversations/conv_s/items/msg_1",
        None,
        _CONVERSATION,
    ),
    (lambda c: c.detokenize((1, 2)), "POST", "/detokenize", {"tokens": [1, 2]}, {"prompt": "ab"}),
    (
        lambda c: c.tokenizer_info(),
        "GET",
        "/tokenizer_info",
        None,
        {
            "tokenizer_class": "T",
            "vocab_size": 9,
            "model_max_length": 9,
            "eos_token": "<e>",
            "bos_token": None,
            "add_bos_token": False,
            "chat_template": "{{ messages }}",
        },
    ),
]


@pytest.mark.parametrize(
    ("use", "method", "path", "body", "answer"), _RESOURCES, ids=[f"{row[1]} {row[2]}" for row in _RESOURCES]
)
def test_resources(
    loopback: "Loopback", flavour: "Flavour", use: Any, method: str, path: str, body: object, answer: object
) -> None:
    loopback.json(answer)
    result = flavour.call(use, loopback.url)
    (seen,) = loopback.seen
    assert (seen.method, seen.path, seen.body) == (method, path, body)
    assert result.model_dump() == answer


_ERRORS = [
    (400, "invalid_request", hope_client.BadRequestError),
    (413, "body_too_large", hope_client.BadRequestError),
    (401, "no_key", hope_client.AuthenticationError),
    (404, "session_not_found", hope_client.NotFoundError),
    (409, "session_busy", hope_client.SessionBusyError),
    (409, "lease_held", hope_client.LeaseHeldError),
    (409, "session_fenced", hope_client.SessionFencedError),
    (409, "conversation_diverged", hope_client.ConversationDiverged),
    (409, "already_learned", hope_client.AlreadyLearned),
    (409, "sequence_conflict", hope_client.ConflictError),
    (429, "queue_full", hope_client.RateLimitedError),
    (500, "session_corrupted", hope_client.ServerError),
    (503, "store_unavailable", hope_client.UnavailableError),
    (418, "teapot", hope_client.APIStatusError),
]


@pytest.mark.parametrize(("status", "code", "kind"), _ERRORS, ids=[f"{row[0]}-{row[1]}" for row in _ERRORS])
def test_every_error_has_its_class(
    loopback: "Loopback", flavour: "Flavour", status: int, code: str, kind: type[hope_client.APIStatusError]
) -> None:
    loopback.error(status, code, Retry_After="2", X_Request_ID="r1")
    with pytest.raises(hope_client.APIStatusError) as caught:
        flavour.call(lambda client: client.chat("hi", session_id="s1"), loopback.url, max_retries=0)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.retry_after_s, error.request_id) == (status, code, 2.0, "r1")
    assert str(error) == f"{code}: it is {code}"


def test_an_error_answer_to_a_stream_is_read_too(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.error(404, "session_not_found")
    with pytest.raises(hope_client.NotFoundError):
        flavour.call(lambda client: client.chat("hi", stream=True, session_id="s1"), loopback.url)


def test_already_learned_says_where_the_turn_is(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.error(409, "already_learned", more={"first_seq": 3, "last_seq": 9})
    with pytest.raises(hope_client.AlreadyLearned) as caught:
        flavour.call(lambda client: client.chat("hi", session_id="s1", idempotency_key="k"), loopback.url)
    assert (caught.value.first_seq, caught.value.last_seq) == (3, 9)


def test_an_error_in_a_proxy_s_own_words_keeps_its_status(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.raw(502, b"<html>bad gateway</html>", {})
    with pytest.raises(hope_client.ServerError, match="status 502: <html>bad gateway"):
        flavour.call(lambda client: client.chat("hi"), loopback.url, max_retries=0)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda c: c.chat("hi", temperature=3.0), "temperature"),
        (lambda c: c.chat("hi", temperature=float("nan")), "temperature"),
        (lambda c: c.chat([{"role": "user", "content": 5}]), "messages.0.content"),
        (lambda c: c.chat("\ud800"), "unicode"),
        (lambda c: c.completions("hi", nonsense=1), "nonsense: Extra inputs"),
        (lambda c: c.chat("hi", session_id="a\r\nX: y"), "session_id"),
        (lambda c: c.chat("hi", idempotency_key="a\r\nX: y"), "idempotency_key"),
        (lambda c: c.sessions.get(""), "session id"),
        (lambda c: c.sessions.create("x" * 201), "name"),
        (lambda c: c.sessions.rollback("s1", seq=-1), "seq"),
        (lambda c: c.sessions.fork("s1", seq=2**53), "seq"),
    ],
)
def test_a_request_that_cannot_be_valid_is_not_sent(
    loopback: "Loopback", flavour: "Flavour", use: Any, message: str
) -> None:
    with pytest.raises(hope_client.InvalidRequestError, match=message):
        flavour.call(use, loopback.url)
    assert loopback.seen == []


@pytest.mark.parametrize("base_url", ["localhost:8000", "ftp://host", "http://", "http://h:x", ""])
def test_an_address_that_cannot_be_one_is_refused(base_url: str, flavour: "Flavour") -> None:
    with pytest.raises(hope_client.InvalidRequestError, match="base_url"):
        flavour.call(lambda client: client.health(), base_url)


@pytest.mark.parametrize("api_key", ["a\r\nX: y", "ключ"])
def test_an_api_key_that_is_no_header_is_refused(api_key: str, flavour: "Flavour") -> None:
    with pytest.raises(hope_client.InvalidRequestError, match="api_key"):
        flavour.call(lambda client: client.health(), api_key=api_key)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken, so that nobody else listens there, and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_nobody_listening(closed_port: int, flavour: "Flavour") -> None:
    with pytest.raises(hope_client.APIConnectionError) as caught:
        flavour.call(lambda client: client.chat("hi", session_id="s1"), f"http://127.0.0.1:{closed_port}")
    assert not caught.value.sent
    assert len(flavour.sleeps_s) == 2, "a turn that was not sent may be sent again"
