"""Responses and conversations with OpenAI's client: what is read, what comes back, what is kept."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from hope_server.api.response_turn import ResponseTurn
from hope_server.api.runtime import Runtime
from hope_server.chat.tools import ToolFormat
from hope_server.errors import InternalError
from hope_server.sessions.key import DEFAULT_TENANT

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

URL = "/v1/responses"
MODEL = "hope-test"


async def sessions(engine: ScriptedEngine) -> list[str]:
    return [meta.session_id for meta in await engine.store.list(DEFAULT_TENANT, after=None, limit=100)]


async def test_a_response(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    response = await client.responses.create(
        model=MODEL, input="hi", instructions="Be kind.", metadata={"a": "b"}, temperature=0.5
    )
    assert engine.read_text() == "Be kind.hi"
    assert response.output_text == "Hello there"
    assert (response.status, response.temperature, response.metadata) == ("completed", 0.5, {"a": "b"})
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (15, 12)
    assert response.to_dict()["hope"]["seq"] == 27  # type: ignore[index]
    assert await client.responses.retrieve(response.id) == response
    items = (await client.responses.input_items.list(response.id)).data
    assert [item.content[0].text for item in items if item.type == "message"] == ["hi"]  # type: ignore[union-attr]


async def test_a_response_goes_on_from_another(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    first = await client.responses.create(model=MODEL, input="one", instructions="Be kind.")
    second = await client.responses.create(
        model=MODEL, input="two", instructions="Be kind.", previous_response_id=first.id
    )
    assert engine.read_text() == "two", "the same instructions are not read again"
    assert second.previous_response_id == first.id
    assert len(await sessions(engine)) == 1, "nothing came after the first one: its session goes on"
    other = await client.responses.create(model=MODEL, input="or else", previous_response_id=first.id)
    assert len(await sessions(engine)) == 2, "now something did: a fork goes on"
    base, third = (each.to_dict()["hope"] for each in (first, other))
    journals = {each["session"]: await engine.journal(each["session"]) for each in (base, third)}  # type: ignore[index]
    upto = base["seq"]  # type: ignore[index]
    pasts = [
        [record.tokens for record in records if record.last_seq <= upto] for records in journals.values()
    ]
    assert pasts[0] == pasts[1]
    assert (await client.responses.retrieve(second.id)).output_text == "Hello there"
    changed = await client.responses.create(
        model=MODEL, input="x", instructions="Be brief.", previous_response_id=second.id
    )
    assert engine.read_text() == "Be brief.x"
    assert changed.instructions == "Be brief."


async def test_what_is_not_stored_leaves_nothing(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    loose = await client.responses.create(model=MODEL, input="hi", store=False)
    assert await sessions(engine) == []
    assert engine.requests[-1].session is None
    with pytest.raises(openai.NotFoundError) as missing:
        await client.responses.retrieve(loose.id)
    assert missing.value.code == "response_not_found"
    kept = await client.responses.create(model=MODEL, input="hi")
    before = await engine.journal((await sessions(engine))[0])
    gone = await client.responses.create(model=MODEL, input="and?", store=False, previous_response_id=kept.id)
    assert engine.requests[-1].session is not None
    told: Any = gone.to_dict()["hope"]
    assert (told["session"], told["seq"]) == (None, None), "what is gone has no name"
    assert len(await sessions(engine)) == 1
    assert await engine.journal((await sessions(engine))[0]) == before


async def test_a_stream_has_the_events_that_the_client_adds_up(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    async with client.responses.stream(model=MODEL, input="hi") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    kinds = [event.type for event in events if not event.type.endswith(".delta")]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == sorted({e.sequence_number for e in events})
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == "Hello there"
    assert (await client.responses.retrieve(final.id)).output_text == "Hello there"


async def test_an_answer_that_was_cut_is_incomplete(client: openai.AsyncOpenAI) -> None:
    whole = await client.responses.create(model=MODEL, input="hi", max_output_tokens=5)
    assert (whole.status, whole.output_text) == ("incomplete", "Hello")
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    stream = await client.responses.create(model=MODEL, input="hi", max_output_tokens=5, stream=True)
    assert [event.type async for event in stream][-1] == "response.incomplete"


async def test_log_probabilities_and_a_form(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    whole = await client.responses.create(
        model=MODEL,
        input="hi",
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        text={"format": {"type": "json_schema", "name": "n", "schema": {"const": 5}}},
    )
    part: Any = whole.output[0].content[0]  # type: ignore[union-attr, index]
    assert "".join(each.token for each in part.logprobs) == "Hello there"
    assert {len(each.top_logprobs) for each in part.logprobs} <= {2, 3}
    assert engine.requests[-1].constraint is not None


async def test_functions_are_called(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, runtime: Runtime
) -> None:
    vars(runtime.chat_format)["tools"] = ToolFormat(listed=True)
    engine.says('<tool_call>[{"name": "clock", "arguments": {"zone": "UTC"}}]</tool_call>')
    tools: Any = [{"type": "function", "name": "clock", "parameters": {"type": "object"}, "strict": False}]
    options: Any = {"model": MODEL, "tools": tools, "max_output_tokens": 100}
    first = await client.responses.create(input="What time is it?", **options)
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("clock", {"zone": "UTC"})
    assert '"name": "clock"' in engine.read_text()
    async with client.responses.stream(input="And now?", **options) as stream:
        kinds = [event.type async for event in stream]
    assert kinds[2:-1] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    engine.says("Noon.")
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "12:00"}]
    second = await client.responses.create(input=output, previous_response_id=first.id, **options)
    assert engine.read_text() == "12:00"
    assert second.output_text == "Noon."
    history: Any = [{"role": "user", "content": "What time is it?"}, call.to_dict(), *output]
    await client.responses.create(input=history, store=False, **options)
    assert '{"zone": "UTC"}' in engine.read_text()


async def test_a_failed_response_leaves_no_session(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.failure = (2, InternalError("a bug"))
    assert (await http.post(URL, json={"input": "hi"})).status_code == 500
    stream = await http.post(URL, json={"input": "hi", "stream": True})
    *_, last, end = stream.text.split("\n\n")
    assert end == ""
    kind, data = last.split("\n")
    assert kind == "event: response.failed"
    failed = json.loads(data.removeprefix("data: "))["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "internal_error")
    assert await sessions(engine) == []


async def test_a_client_that_leaves_stops_the_turn_and_leaves_no_session(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    engine.pause_at = 3
    stream = await client.responses.create(model=MODEL, input="hi", stream=True)
    await engine.paused.wait()
    await stream.close()
    await engine.closed.wait()
    await engine.deleted.wait()
    assert await sessions(engine) == []


async def test_two_responses_at_once_both_go_on_from_the_same(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    """OpenAI's client sends the one that is refused again by itself; then it forks."""
    first = await client.responses.create(model=MODEL, input="one")
    both = await asyncio.gather(
        *(client.responses.create(model=MODEL, input=each, previous_response_id=first.id) for each in "ab")
    )
    places = {each.to_dict()["hope"]["session"] for each in both}  # type: ignore[index]
    assert len(places) == len(await sessions(engine)) == 2
    upto = first.to_dict()["hope"]["seq"]  # type: ignore[index]
    for place in places:
        runs = [record for record in await engine.journal(place) if record.kind == "run"]
        assert len([run for run in runs if run.first_seq > upto]) == 1


async def test_deleting(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    first = await client.responses.create(model=MODEL, input="one")
    second = await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)
    assert (await client.responses.retrieve(second.id)).id == second.id
    await client.responses.delete(second.id)
    assert await sessions(engine) == [], "nothing names the session any more"
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model=MODEL, input="x", previous_response_id=second.id)


async def test_a_conversation_is_a_session(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    items: Any = [{"role": "system", "content": "Be kind."}]
    conversation = await client.conversations.create(items=items, metadata={"topic": "x"})
    assert conversation.metadata == {"topic": "x"}
    assert engine.requests == []
    await client.responses.create(model=MODEL, input="one", conversation=conversation.id)
    assert engine.read_text() == "Be kind.one"
    more: Any = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "by the way"}]}
    ]
    added = await client.conversations.items.create(conversation.id, items=more)
    second = await client.responses.create(model=MODEL, input="two", conversation={"id": conversation.id})
    assert engine.read_text() == "by the waytwo"
    assert second.conversation is not None
    assert second.conversation.id == conversation.id
    assert await sessions(engine) == [conversation.id.removeprefix("conv_")]
    listed = await client.conversations.items.list(conversation.id, order="asc", limit=4)
    texts = [item.content[0].text async for item in listed]  # type: ignore[union-attr, index]
    assert texts == ["Be kind.", "one", "Hello there", "by the way", "two", "Hello there"]
    newest = (await client.conversations.items.list(conversation.id, limit=2)).data
    assert [item.content[0].text for item in newest] == ["Hello there", "two"]  # type: ignore[union-attr, index]
    one = await client.conversations.items.retrieve(added.data[0].id or "", conversation_id=conversation.id)
    assert one == added.data[0]
    updated = await client.conversations.update(conversation.id, metadata={"topic": "y"})
    assert updated.metadata == {"topic": "y"}
    assert (await client.conversations.retrieve(conversation.id)).metadata == {"topic": "y"}
    await client.conversations.delete(conversation.id)
    assert await sessions(engine) == []
    with pytest.raises(openai.NotFoundError) as missing:
        await client.conversations.retrieve(conversation.id)
    assert missing.value.code == "conversation_not_found"


async def test_a_response_of_a_conversation_is_gone_on_from_in_a_fork(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    conversation = await client.conversations.create()
    first = await client.responses.create(model=MODEL, input="one", conversation=conversation.id)
    await client.responses.create(model=MODEL, input="aside", previous_response_id=first.id)
    assert len(await sessions(engine)) == 2
    listed = (await client.conversations.items.list(conversation.id)).data
    assert len(listed) == 2, "the conversation itself has not gone on"


async def test_items_that_a_response_failed_to_read_are_read_by_the_next(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    body = {"items": [{"role": "user", "content": "first"}]}
    identity = (await http.post("/v1/conversations", json=body)).json()["id"]
    engine.refusal = InternalError("before anything was read")
    await http.post(URL, json={"input": "a", "conversation": identity})
    engine.refusal = None
    await http.post(URL, json={"input": "b", "conversation": identity})
    assert engine.read_text() == "firstb"
    engine.failure = (1, InternalError("after the prompt was read"))
    await http.post(
        f"/v1/conversations/{identity}/items", json={"items": [{"role": "user", "content": "more"}]}
    )
    await http.post(URL, json={"input": "c", "conversation": identity})
    assert engine.read_text() == "morec"
    engine.failure = None
    await http.post(URL, json={"input": "d", "conversation": identity})
    assert engine.read_text() == "d"
    await http.post(
        f"/v1/conversations/{identity}/items", json={"items": [{"role": "user", "content": "last"}]}
    )
    engine.refusal = InternalError("before anything was read, of a journal that is not empty")
    await http.post(URL, json={"input": "e", "conversation": identity})
    engine.refusal = None
    await http.post(URL, json={"input": "f", "conversation": identity})
    assert engine.read_text() == "lastf"


async def test_an_item_can_be_taken_back_until_it_is_read(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    body = {"items": [{"role": "user", "content": each} for each in ("a", "b")]}
    identity = (await http.post("/v1/conversations", json=body)).json()["id"]
    url = f"/v1/conversations/{identity}/items"
    a, b = (item["id"] for item in (await http.get(url, params={"order": "asc"})).json()["data"])
    assert (await http.delete(f"{url}/{a}")).json()["id"] == identity
    await http.post(URL, json={"input": "c", "conversation": identity})
    assert engine.read_text() == "bc"
    refused = await http.delete(f"{url}/{b}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "item_already_read")
    missing = await http.delete(f"{url}/{a}")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "item_not_found")


async def test_a_retry_in_a_conversation_is_not_learned_twice(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    identity = (await http.post("/v1/conversations")).json()["id"]
    body = {"input": "hi", "conversation": identity}
    for attempt, status in ((0, 200), (1, 409), (0, 200)):
        headers = {"x-stainless-retry-count": str(attempt)}
        assert (await http.post(URL, json=body, headers=headers)).status_code == status
    assert len(engine.requests) == 2


NAMED = {"type": "json_schema", "name": "n"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"input": "a", "previous_response_id": "resp_none"}, 404, "response_not_found"),
        ({"input": "a", "previous_response_id": f"resp_{'0' * 32}_{'0' * 16}"}, 404, "response_not_found"),
        ({"input": "a", "conversation": "conv_none"}, 404, "conversation_not_found"),
        ({"input": "a", "conversation": "../x"}, 404, "conversation_not_found"),
        ({"input": "a", "conversation": "c", "previous_response_id": "r"}, 400, "invalid_value"),
        ({"input": "a", "conversation": "c", "store": False}, 400, "invalid_value"),
        ({"input": ""}, 400, "invalid_value"),
        ({"input": []}, 400, "invalid_type"),
        ({"input": "  "}, 400, "empty_prompt"),
        ({"input": [{"type": "reasoning"}]}, 400, "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "invalid_value"),
        ({"input": "a", "background": True}, 400, "unsupported_value"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, 400, "invalid_value"),
        ({"input": "a", "tool_choice": "required"}, 400, "invalid_value"),
        ({"input": "a", "session_id": "s"}, 400, "unknown_field"),
        ({"input": "a", "model": "gpt-5"}, 404, "model_not_found"),
        ({"input": "a", "text": {"format": {**NAMED, "schema": {"type": 5}}}}, 400, "invalid_schema"),
    ],
)  # fmt: skip
async def test_what_cannot_be_answered_is_refused(
    http: httpx.AsyncClient, engine: ScriptedEngine, body: Any, status: int, code: str
) -> None:
    answer = await http.post(URL, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert not engine.requests
    assert await sessions(engine) == []


async def test_a_header_s_session_is_refused(http: httpx.AsyncClient, session: str) -> None:
    answer = await http.post(URL, json={"input": "a"}, headers={"X-Session-ID": session})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_value")


async def test_another_session_is_no_conversation(http: httpx.AsyncClient, session: str) -> None:
    assert (await http.get(f"/v1/conversations/conv_{session}")).status_code == 404
    assert (await http.delete(f"/v1/conversations/conv_{session}")).status_code == 404
    assert (await http.get(f"/v1/sessions/{session}")).is_success


@pytest.mark.settings(max_body_bytes=4 << 20, max_prompt_tokens=200_000)
async def test_what_could_not_be_stored_is_not_learned(http: httpx.AsyncClient) -> None:
    large = "\x01" * 100_000  # six bytes each as JSON, and one token
    answer = await http.post(URL, json={"input": large})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_large_to_store")
    assert (await http.post(URL, json={"input": large, "store": False})).is_success


async def test_a_full_session_learns_nothing_that_it_could_not_keep(
    http: httpx.AsyncClient, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = (await http.post("/v1/conversations")).json()["id"]
    alone = (await http.post(URL, json={"input": "a"})).json()["id"]
    asked = len(engine.requests)
    monkeypatch.setattr("hope_server.api.response_documents.MAX_DOCUMENTS", 1)
    for past in ({"conversation": identity}, {"previous_response_id": alone}):
        answer = await http.post(URL, json={"input": "b", **past})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "too_many_documents")
    assert len(engine.requests) == asked


async def test_log_probabilities_are_not_kept(http: httpx.AsyncClient) -> None:
    body = {"input": "hi", "top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    made = (await http.post(URL, json=body)).json()
    kept = (await http.get(f"{URL}/{made['id']}")).json()
    assert made["output"][0]["content"][0].pop("logprobs")
    assert kept["output"][0]["content"][0].pop("logprobs") == []
    assert made == kept


async def test_one_that_was_overtaken_begins_again(
    http: httpx.AsyncClient, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding the session and holding it another turn came: going on there would be another past."""
    first = (await http.post(URL, json={"input": "one"})).json()
    found = ResponseTurn.open

    async def overtaken(turn: ResponseTurn) -> None:
        await found(turn)
        monkeypatch.setattr(ResponseTurn, "open", found)
        body = {"prompt": "between", "session_id": first["hope"]["session"]}
        assert (await http.post("/v1/completions", json=body)).is_success

    monkeypatch.setattr(ResponseTurn, "open", overtaken)
    body = {"input": "two", "previous_response_id": first["id"]}
    answer = await http.post(URL, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_busy")
    assert answer.headers["x-should-retry"] == "true"
    assert engine.read_text() == "between"
    again = (await http.post(URL, json=body)).json()
    assert again["hope"]["session"] != first["hope"]["session"]
