"""Chats with tools over HTTP, with OpenAI's client: what the model reads, what comes back, what is kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from hope_server.api.runtime import Runtime
from hope_server.chat.tools import ToolFormat

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

CHAT = "/v1/chat/completions"
ASK: Any = {"role": "user", "content": "What time is it?"}
CLOCK = {"name": "clock", "description": "The time.", "parameters": {"type": "object"}}
TOOLS: Any = [{"type": "function", "function": each} for each in (CLOCK, {"name": "dice"})]
CALLED = '<tool_call>[{"name": "clock", "arguments": {"zone":  "UTC"}}, {"name": "dice"}]</tool_call>'


@pytest.fixture(autouse=True)
def trained(runtime: Runtime) -> None:
    vars(runtime.chat_format)["tools"] = ToolFormat(listed=True)


async def test_a_call_and_its_result(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, session: str
) -> None:
    engine.says(CALLED)
    of_session = {"X-Session-ID": session}
    options: Any = {"model": "hope-test", "tools": TOOLS, "extra_headers": of_session, "max_tokens": 100}
    messages = [ASK]
    first = await client.chat.completions.create(messages=messages, **options)
    assert '"name": "clock", "description": "The time."' in engine.read_text()
    assert engine.read_text().endswith("What time is it?")
    (choice,) = first.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls: Any = choice.message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("clock", {"zone": "UTC"}),
        ("dice", {}),
    ]
    assert len({call.id for call in calls}) == 2
    engine.says("Noon.")
    messages.append(choice.message.to_dict())
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "12:00"} for call in calls]
    second = await client.chat.completions.create(messages=messages, **options)
    assert engine.read_text() == "12:0012:00", "only what is new is read"
    assert second.choices[0].message.content == "Noon."
    assert second.choices[0].finish_reason == "stop"
    await client.chat.completions.create(messages=[{"role": "user", "content": "Thanks."}], **options)
    assert engine.read_text() == "Thanks."


async def test_calls_are_streamed(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(f"Well. {CALLED}")
    options: Any = {"model": "hope-test", "messages": [ASK], "tools": TOOLS, "max_tokens": 100}
    text, reasons = "", []
    calls: list[Any] = []
    async for chunk in await client.chat.completions.create(stream=True, **options):
        (choice,) = chunk.choices
        text += choice.delta.content or ""
        calls += choice.delta.tool_calls or []
        reasons.append(choice.finish_reason)
    assert text == "Well. "
    assert [(call.index, call.function.name) for call in calls] == [(0, "clock"), (1, "dice")]
    assert json.loads(calls[0].function.arguments) == {"zone": "UTC"}
    assert reasons[-1] == "tool_calls"


DICE = {"type": "function", "function": {"name": "dice"}}


@pytest.mark.parametrize(
    ("choice", "names"), [("required", "cd"), (DICE, "d"), ("auto", None), ("none", None)]
)
async def test_a_choice_of_tools(
    http: httpx.AsyncClient, engine: ScriptedEngine, choice: Any, names: str | None
) -> None:
    body = {"messages": [ASK], "tools": TOOLS, "tool_choice": choice}
    assert (await http.post(CHAT, json=body)).is_success
    assert ("clock" in engine.read_text()) == (choice in ("auto", "required"))
    constraint = engine.requests[-1].constraint
    assert (constraint is None) == (names is None)
    if constraint is not None:
        for byte in b'<tool_call>[{"name": "':
            constraint.accept(6 + byte)
        mask = int.from_bytes(constraint.allowed(), "little")
        assert "".join(name for name in "abcd" if mask >> 6 + ord(name) & 1) == names


async def test_other_tools_than_the_conversation_began_with(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    body = {"messages": [ASK], "session_id": session}
    answer = (await http.post(CHAT, json=body)).json()["choices"][0]["message"]
    whole = [ASK, answer, {"role": "user", "content": "And now?"}]
    with_tools = {"session_id": session, "tools": TOOLS}
    refused = await http.post(CHAT, json={"messages": whole, **with_tools})
    assert (refused.status_code, refused.json()["error"]["param"]) == (409, "tools")
    assert (await http.post(CHAT, json={"messages": whole[2:], **with_tools})).is_success
    assert "clock" in engine.read_text()


@pytest.mark.parametrize("arguments", ["{", "[]", "5", "[" * 50_000], ids=["cut", "list", "number", "deep"])
async def test_calls_sent_back_damaged_are_refused(http: httpx.AsyncClient, arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "clock", "arguments": arguments}}
    messages = [ASK, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "x"}]
    answer = await http.post(CHAT, json={"messages": messages})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


async def test_a_model_without_tools_says_so(http: httpx.AsyncClient, runtime: Runtime) -> None:
    vars(runtime.chat_format)["tools"] = None
    answer = await http.post(CHAT, json={"messages": [ASK], "tools": TOOLS})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_value", "tools")


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
async def test_other_parts_than_text_are_refused(http: httpx.AsyncClient, kind: str) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": kind, kind: {"url": "data:x"}}]
    answer = await http.post(CHAT, json={"messages": [{"role": "user", "content": parts}]})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"].startswith("messages.0.content.1")
