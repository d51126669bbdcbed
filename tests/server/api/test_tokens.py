"""The tokenizer over HTTP, as lm-eval asks for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from jinja2 import Environment

from hope_server.api.runtime import Runtime

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine


async def test_text_there_and_back(http: httpx.AsyncClient) -> None:
    body = {"prompt": "aé", "return_token_strs": True}
    found = (await http.post("/tokenize", json=body)).json()
    assert found["tokens"] == [6 + byte for byte in "aé".encode()]
    assert (found["count"], found["max_model_len"]) == (3, 20000)
    assert found["token_strs"] == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    back = await http.post("/detokenize", json={"tokens": found["tokens"]})
    assert back.json() == {"prompt": "aé"}


async def test_messages_are_what_a_chat_reads(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    messages = [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
    ]
    found = (await http.post("/tokenize", json={"messages": messages})).json()
    await http.post("/v1/chat/completions", json={"messages": messages})
    assert found["tokens"] == engine.read()
    assert "token_strs" not in found


async def test_what_lm_eval_asks_of_a_tokenizer(http: httpx.AsyncClient) -> None:
    info = (await http.get("/tokenizer_info")).json()
    assert (info["eos_token"], info["bos_token"], info["add_bos_token"]) == ("<|0|>", None, False)
    assert info["vocab_size"] == 262
    asked = {"prompt": info["eos_token"], "add_special_tokens": False}
    assert (await http.post("/tokenize", json=asked)).json()["tokens"] == [0]
    within = {"prompt": f"a{info['eos_token']}", "add_special_tokens": False}
    assert (await http.post("/tokenize", json=within)).json()["count"] == 6


async def test_the_chat_template_writes_what_a_chat_reads(http: httpx.AsyncClient) -> None:
    """lm-eval renders it with jinja2; names of special tokens stand for their ids."""
    messages = [{"role": role, "content": f"a{role}"} for role in ("system", "user", "assistant", "tool")]
    template = (await http.get("/tokenizer_info")).json()["chat_template"]
    text = Environment().from_string(template).render(messages=messages, add_generation_prompt=True)
    read = (await http.post("/tokenize", json={"messages": messages})).json()["tokens"]
    name = re.compile(r"<\|(\d+)\|>")
    pieces = [name.fullmatch(piece) or piece for piece in re.split(r"(<\|\d+\|>)", text) if piece]
    found = [
        token
        for piece in pieces
        for token in ([6 + byte for byte in piece.encode()] if isinstance(piece, str) else [int(piece[1])])
    ]
    assert found == read


@pytest.mark.parametrize("begin", [True, False])
async def test_a_text_begins_as_a_completion_does(
    http: httpx.AsyncClient, runtime: Runtime, begin: bool
) -> None:
    vars(runtime.chat_format)["text_start"] = (3,)
    body = {"prompt": "a", "add_special_tokens": begin}
    assert (await http.post("/tokenize", json=body)).json()["tokens"] == [*([3] if begin else []), 103]
    assert (await http.get("/tokenizer_info")).json()["bos_token"] == "<|3|>"


@pytest.mark.parametrize(
    ("url", "body", "param"),
    [
        ("/tokenize", {}, None),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, None),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": False}, "add_generation_prompt"),
        ("/detokenize", {"tokens": [262]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0"),
        ("/detokenize", {}, "tokens"),
    ],
)
async def test_what_cannot_be_done_is_refused(
    http: httpx.AsyncClient, url: str, body: Any, param: str | None
) -> None:
    answer = await http.post(url, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(("url", "body"), [("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [6]})])
async def test_another_model_has_another_tokenizer(http: httpx.AsyncClient, url: str, body: Any) -> None:
    assert (await http.post(url, json={**body, "model": "gpt"})).status_code == 404
