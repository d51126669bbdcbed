from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hope_server.api.runtime import Runtime
from hope_server.errors import SessionCorrupted

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

URL = "/v1/completions"


async def test_a_prompt_is_continued(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    answer = await http.post(URL, json={"model": "hope-test", "prompt": "Once"})
    body = answer.json()
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "Hello there", "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 12, "total_tokens": 16}
    assert engine.read() == [6 + byte for byte in b"Once"]
    assert engine.requests[-1].prompt[0].origin == "text"
    assert engine.requests[-1].sampling.max_tokens == 16


async def test_a_stream_of_text(http: httpx.AsyncClient) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 3}
    answer = await http.post(URL, json={"prompt": "Once", **options})
    *chunks, end = answer.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    parsed = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert [choice["text"] for chunk in parsed for choice in chunk["choices"]] == ["H", "e", "l", ""]
    assert parsed[-2]["choices"][0]["finish_reason"] == "length"
    assert parsed[-1]["choices"] == []
    assert parsed[-1]["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("prompt", [[10, 11, 1], [[10, 11, 1]]])
async def test_token_ids_are_read_as_they_are(
    http: httpx.AsyncClient, engine: ScriptedEngine, prompt: Any
) -> None:
    assert (await http.post(URL, json={"prompt": prompt})).is_success
    assert engine.read() == [10, 11, 1]


async def test_special_tokens_in_a_text_are_ordinary_text(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    await http.post(URL, json={"prompt": "<|end|>"})
    assert engine.read() == [6 + byte for byte in b"<|end|>"]


@pytest.mark.parametrize("prompt", ["", [], [""], [[]]])
async def test_an_empty_prompt_is_refused(http: httpx.AsyncClient, prompt: Any) -> None:
    answer = await http.post(URL, json={"prompt": prompt})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"


async def test_a_token_outside_the_vocabulary_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post(URL, json={"prompt": [5, 262]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_token")


async def test_a_long_prompt_is_refused(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    answer = await http.post(URL, json={"prompt": "x" * 20001})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "prompt_too_long")
    assert not engine.requests
    assert (await http.post(URL, json={"prompt": "x" * 20000})).is_success


async def test_more_output_than_allowed_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post(URL, json={"prompt": "x", "max_tokens": 101})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "max_tokens"


async def test_a_session_appends_the_prompt(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    for _ in range(2):
        answer = await http.post(URL, json={"prompt": "ab", "max_tokens": 3, "session_id": session})
        assert answer.json()["usage"]["prompt_tokens"] == 2
    meta = await engine.meta(session)
    assert (meta.seq, meta.transcript.count) == (10, 0)


async def test_each_prompt_has_its_choices(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.answers = {5: [72, 1], 6: [73, 1]}
    body = {"prompt": ["ab", "c"], "n": 2, "seed": 5}
    answer = (await http.post(URL, json=body)).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "B"),
        (1, "C"),
        (2, "B"),
        (3, "C"),
    ]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
    assert sorted(len(request.prompt[0].tokens) for request in engine.requests) == [1, 1, 2, 2]


async def test_choices_are_streamed_side_by_side(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.answers = {5: [72, 1], 6: [*range(73, 80), 1]}
    options = {"n": 2, "seed": 5, "stream": True, "stream_options": {"include_usage": True}}
    answer = await http.post(URL, json={"prompt": "ab", **options})
    *chunks, end = answer.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    parsed = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    texts, ends = {0: "", 1: ""}, {}
    for chunk in parsed[:-1]:
        (choice,) = chunk["choices"]
        assert choice["index"] not in ends
        texts[choice["index"]] += choice["text"]
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
    assert texts == {0: "B", 1: "CDEFGHI"}
    assert ends == {0: "stop", 1: "stop"}
    assert parsed[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 10, "total_tokens": 12}


@pytest.mark.parametrize("stream", [False, True])
async def test_one_choice_that_fails_ends_all(
    http: httpx.AsyncClient, engine: ScriptedEngine, stream: bool
) -> None:
    engine.failure = (3, SessionCorrupted("non-finite"))
    answer = await http.post(URL, json={"prompt": "ab", "n": 4, "stream": stream})
    assert "session_corrupted" in answer.text
    assert "[DONE]" not in answer.text
    assert answer.status_code == (200 if stream else 500)


async def test_as_many_turns_at_once_as_there_are_slots(
    http: httpx.AsyncClient, engine: ScriptedEngine, runtime: Runtime
) -> None:
    engine.pause_at = 1
    asked = asyncio.create_task(http.post(URL, json={"prompt": ["a"] * 40}))
    await engine.paused.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(engine.requests) == runtime.config.slots < 40
    engine.resume.set()
    assert len((await asked).json()["choices"]) == 40


async def test_what_lm_eval_asks_and_reads(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    """The request of its local-completions, and what it computes of the answer."""
    context, continuation = [10, 11, 12], [20, 22]
    body = {
        "prompt": [context + continuation, [*context, 21, 23]],
        "model": "hope-test",
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
        "temperature": 0,
    }
    engine.answer = [1]  # the one generated token shows no text, and is counted all the same
    choices = (await http.post(URL, json=body)).json()["choices"]
    found = []
    for choice in sorted(choices, key=lambda each: each["index"]):
        logprobs = choice["logprobs"]
        own = logprobs["token_logprobs"][len(context) : -1]
        top = logprobs["top_logprobs"][len(context) : -1]
        found.append((sum(own), all(mine == max(best.values()) for mine, best in zip(own, top, strict=True))))
    assert found == [(-0.5, True), (-3.0, False)]
    first = choices[0]["logprobs"]
    assert (first["token_logprobs"][0], first["top_logprobs"][0]) == (None, None)
    assert {len(first[name]) for name in first} == {len(context) + len(continuation) + 1}


async def test_echo_puts_the_prompt_first(http: httpx.AsyncClient) -> None:
    body = {"prompt": "aé", "echo": True, "max_tokens": 2, "logprobs": 2}
    (choice,) = (await http.post(URL, json=body)).json()["choices"]
    assert choice["text"] == "aéHe"
    assert choice["finish_reason"] == "length"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xa9", "H", "e"]
    assert logprobs["text_offset"] == [0, 1, 1, 2, 3]
    assert logprobs["top_logprobs"][3] == {"H": -0.25, "\x01": -2.0}
    assert logprobs["top_logprobs"][4] == {"<|0|>": -0.5, "\x01": -2.0, "e": -1.5}
    stream = await http.post(URL, json={**body, "stream": True})
    chunks = [json.loads(line.removeprefix("data: ")) for line in stream.text.split("\n\n")[:-2]]
    parts = [chunk["choices"][0] for chunk in chunks]
    assert "".join(part["text"] for part in parts) == "aéHe"
    streamed = [part["logprobs"] for part in parts if part["logprobs"] is not None]
    for name, values in logprobs.items():
        assert [value for part in streamed for value in part[name]] == values


@pytest.mark.parametrize("echo", [False, True])
async def test_nothing_is_generated_where_nothing_is_asked_for(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str, echo: bool
) -> None:
    body = {"prompt": "ab", "max_tokens": 0, "echo": echo, "logprobs": 1, "session_id": session}
    answer = (await http.post(URL, json=body)).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab" if echo else "", "length")
    assert choice["logprobs"]["token_logprobs"] == ([None, -0.25] if echo else [])
    assert answer["usage"]["completion_tokens"] == 0
    assert (await engine.meta(session)).seq == 2


async def test_a_stop_string_does_not_count_before_min_tokens(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says("xxaxxxbxx")
    body = {"prompt": "a", "stop": ["xx"], "min_tokens": 4, "max_tokens": 9}
    answer = (await http.post(URL, json=body)).json()
    assert answer["choices"][0]["text"] == "xxax"


async def test_sampling_reaches_the_engine(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    body = {
        "prompt": "a",
        "logit_bias": {"7": -100, "8": 2.5},
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.5,
        "min_tokens": 2,
        "best_of": 1,
    }
    assert (await http.post(URL, json=body)).is_success
    sampling = engine.requests[-1].sampling
    assert sampling.logit_bias == ((7, -100.0), (8, 2.5))
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.repetition_penalty, sampling.min_tokens) == (1.5, 2)
    assert (sampling.logprobs, sampling.prompt_logprobs) == (None, None)
