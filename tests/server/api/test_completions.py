from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

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
