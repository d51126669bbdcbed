"""Every bad body gets an error in OpenAI's shape, with a stable code; the session stays as it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_client.wire import ChatCompletionRequest, CompletionRequest

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("url", "body", "code", "param"),
    [
        (CHAT, {"messages": HI, "colour": 1}, "unknown_field", "colour"),
        (CHAT, {"messages": [{**HI[0], "colour": 1}]}, "unknown_field", "messages.0.colour"),
        (CHAT, {}, "missing_field", "messages"),
        (CHAT, {"messages": [{"role": "user"}]}, "missing_field", "messages.0"),
        (CHAT, {"messages": "hi"}, "invalid_type", "messages"),
        (CHAT, {"messages": []}, "invalid_value", "messages"),
        (CHAT, {"messages": [{"role": "robot", "content": "a"}]}, "invalid_value", "messages.0.role"),
        (CHAT, {"messages": HI, "temperature": "1"}, "invalid_type", "temperature"),
        (CHAT, {"messages": HI, "temperature": 3}, "invalid_value", "temperature"),
        (CHAT, {"messages": HI, "temperature": True}, "invalid_type", "temperature"),
        (CHAT, {"messages": HI, "max_tokens": 1.5}, "invalid_type", "max_tokens"),
        (CHAT, {"messages": HI, "max_tokens": 0}, "invalid_value", "max_tokens"),
        (CHAT, {"messages": HI, "max_tokens": 10**30}, "invalid_value", "max_tokens"),
        (CHAT, {"messages": HI, "seed": 2**64}, "invalid_value", "seed"),
        (CHAT, {"messages": HI, "n": 2, "session_id": "s"}, "unsupported_value", "n"),
        (CHAT, {"messages": HI, "min_p": 0.5}, "unsupported_value", "min_p"),
        (CHAT, {"messages": HI, "logit_bias": {"262": 1}}, "invalid_token", "logit_bias"),
        (CHAT, {"messages": HI, "logit_bias": {"x": 1}}, "invalid_value", "logit_bias.x"),
        (CHAT, {"messages": HI, "min_tokens": 9, "max_tokens": 8}, "invalid_value", "min_tokens"),
        (CHAT, {"messages": HI, "session_id": "../x"}, "invalid_value", "session_id"),
        (CHAT, {"messages": HI, "stop": ["a", ""]}, "invalid_value", "stop.1"),
        (TEXT, {"prompt": {}}, "invalid_type", "prompt"),
        (TEXT, {"prompt": [1, "a"]}, "invalid_type", "prompt.1"),
        (TEXT, {"prompt": [-1]}, "invalid_value", "prompt.0"),
        (TEXT, {"prompt": ["a", "b"], "session_id": "s"}, "unsupported_value", "prompt"),
        (TEXT, {"prompt": ["a", 1]}, "invalid_type", "prompt.0"),
        (TEXT, {"prompt": "a", "suffix": "b"}, "unsupported_value", "suffix"),
        (TEXT, {"prompt": "a", "best_of": 2}, "invalid_value", None),
        (TEXT, {"prompt": "a", "stream": 1}, "invalid_type", "stream"),
        ("/v1/sessions", {"name": 5}, "invalid_type", "name"),
        ("/v1/sessions", {"id": "mine"}, "unknown_field", "id"),
    ],
)  # fmt: skip
async def test_a_body_that_does_not_fit(
    http: httpx.AsyncClient, engine: ScriptedEngine, url: str, body: Any, code: str, param: str | None
) -> None:
    answer = await http.post(url, content=json.dumps(body), headers=JSON)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert error["code"] == code, error
    assert answer.headers["x-should-retry"] == "false"
    assert not engine.requests


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a"} {}',
        b"[" * 10000,
        b'{"a":' * 10000,
        b'{"stop": ' + b"[" * 300 + b"]" * 300 + b', "prompt": "a"}',
        b'["prompt"]',
        b'"prompt"',
        b"null",
    ],
)
async def test_a_body_that_is_not_json(
    http: httpx.AsyncClient, engine: ScriptedEngine, content: bytes
) -> None:
    answer = await http.post(TEXT, content=content, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in (
        "invalid_json",
        "invalid_type",
        "invalid_value",
        "missing_field",
    )
    assert len(answer.text) < 1000
    assert not engine.requests


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_what_a_browser_sends_across_sites_is_refused(http: httpx.AsyncClient, media_type: str) -> None:
    answer = await http.post(TEXT, content=b'{"prompt": "a"}', headers={"content-type": media_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


async def test_a_charset_is_fine(http: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    assert (await http.post(TEXT, content=b'{"prompt": "a"}', headers=headers)).status_code == 200


async def test_an_unknown_model(http: httpx.AsyncClient) -> None:
    for url, body in ((CHAT, {"messages": HI}), (TEXT, {"prompt": "a"})):
        answer = await http.post(url, json={"model": "gpt-4", **body})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert (await http.get("/v1/models/gpt-4")).status_code == 404


@pytest.mark.parametrize("path", ["/v1", "/v2/models", "/v1/sessions/", "/docs", "/v1/chat/completions/"])
async def test_an_unknown_route(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in ("route_not_found", "session_not_found")


async def test_a_wrong_method(http: httpx.AsyncClient) -> None:
    answer = await http.put(CHAT, json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("key", ["", "a b", "x" * 129])
async def test_a_bad_idempotency_key(http: httpx.AsyncClient, key: str) -> None:
    answer = await http.post(TEXT, json={"prompt": "a"}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = sorted(ChatCompletionRequest.model_fields | CompletionRequest.model_fields)


@settings(max_examples=150)
@given(
    base=st.sampled_from([(CHAT, {"messages": HI}), (TEXT, {"prompt": "a"})]),
    extra=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=2),
)
async def test_no_body_fails_the_server(http: httpx.AsyncClient, base: Any, extra: dict[str, Any]) -> None:
    url, body = base
    answer = await http.post(url, content=json.dumps({**body, **extra}), headers=JSON)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["code"]
