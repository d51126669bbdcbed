"""The official client, unchanged, against the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest

from hope_server.errors import ConversationDiverged, SessionBusy, SessionCorrupted

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id for model in (await client.models.list()).data] == ["hope-test"]
    assert (await client.models.retrieve("hope-test")).id == "hope-test"


async def test_chat(client: openai.AsyncOpenAI, session: str) -> None:
    answer = await client.chat.completions.create(
        model="hope-test",
        messages=[{"role": "user", "content": "hi"}],
        extra_headers={"X-Session-ID": session},
    )
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 17


async def test_chat_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="hope-test",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello there"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


async def test_completions(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    whole = await client.completions.create(model="hope-test", prompt=[10, 11], stop=["there"])
    assert whole.choices[0].text == "Hello "
    stream = await client.completions.create(model="hope-test", prompt="a", stream=True, max_tokens=5)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello"


async def test_completions_with_everything(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.answers = {3: [72, 1], 4: [73, 1]}
    options: dict[str, Any] = {"n": 2, "seed": 3, "logit_bias": {"9": -1}, "presence_penalty": 0.5}
    whole = await client.completions.create(
        model="hope-test", prompt=["ab", "c"], echo=True, logprobs=2, **options
    )
    assert [choice.text for choice in whole.choices] == ["abB", "abC", "cB", "cC"]
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["a", "b", "B", "<|1|>"]
    assert logprobs.token_logprobs == [None, -0.25, -0.25, -1.5]
    stream = await client.completions.create(model="hope-test", prompt="a", stream=True, **options)
    texts = ["", ""]
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == ["B", "C"]


async def test_chat_with_logprobs_and_choices(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.answers = {3: [72, 1], 4: [6 + 0xC3, 6 + 0xA9, 1]}
    options: dict[str, Any] = {"n": 2, "seed": 3, "logprobs": True, "top_logprobs": 2}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    whole = await client.chat.completions.create(model="hope-test", messages=messages, **options)
    assert [choice.message.content for choice in whole.choices] == ["B", "é"]
    assert whole.choices[1].logprobs is not None
    content = whole.choices[1].logprobs.content or []
    assert [(each.token, each.bytes) for each in content] == [
        ("bytes:\\xc3", [0xC3]),
        ("bytes:\\xa9", [0xA9]),
    ]
    assert [len(each.top_logprobs) for each in content] == [2, 2]
    stream = await client.chat.completions.create(
        model="hope-test", messages=messages, stream=True, stream_options={"include_usage": True}, **options
    )
    chunks = [chunk async for chunk in stream]
    roles = [c.choices[0].index for c in chunks[:-1] if c.choices[0].delta.role == "assistant"]
    assert sorted(roles) == [0, 1]
    streamed = [
        each.token
        for chunk in chunks[:-1]
        for choice in chunk.choices
        if choice.index == 1 and choice.logprobs
        for each in choice.logprobs.content or []
    ]
    assert streamed == [each.token for each in content]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


async def test_a_whole_conversation_can_be_sent_each_time(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, session: str
) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = []
    for turn in range(3):
        messages.append({"role": "user", "content": f"turn {turn}"})
        answer = await client.chat.completions.create(
            model="hope-test", messages=messages, extra_body={"session_id": session}
        )
        messages.append(answer.choices[0].message.to_dict())  # type: ignore[arg-type]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len("turn 0") + 3


async def test_errors_have_their_types(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.completions.create(model="gpt-4", prompt="a")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        await client.completions.create(model="hope-test", prompt="")
    assert bad.value.code == "empty_prompt"
    engine.failure = (2, SessionCorrupted("the state became non-finite"))
    stream = await client.completions.create(model="hope-test", prompt="a", stream=True)
    with pytest.raises(openai.APIError, match="the session's state cannot be used"):
        _ = [chunk async for chunk in stream]


async def test_only_what_can_succeed_is_retried(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.refusal = ConversationDiverged("another past")
    with pytest.raises(openai.ConflictError):
        await client.completions.create(model="hope-test", prompt="a")
    assert len(engine.requests) == 1
    engine.refusal = SessionBusy("in a turn", retry_after_s=0.001)
    with pytest.raises(openai.ConflictError):
        await client.completions.create(model="hope-test", prompt="a")
    assert len(engine.requests) == 1 + 3
