"""What a caller may get wrong, on a real server: a typed error, the session untouched, the process alive."""

import json
from typing import Any

import httpx
import pytest

from hope_client import Client

TEXT, CHAT, SESSIONS = "/v1/completions", "/v1/chat/completions", "/v1/sessions"
JSON = {"content-type": "application/json"}
HI = [{"role": "user", "content": "hi"}]
LIMIT = 4 << 20
"""Bytes of a body, by default."""


def raw(text: str | bytes) -> dict[str, Any]:
    return {"content": text if isinstance(text, bytes) else text.encode(), "headers": JSON}


BAD: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "unknown-model": (TEXT, {"json": {"model": "gpt-4", "prompt": "a"}}, 404, "model_not_found"),
    "unknown-field": (TEXT, {"json": {"prompt": "a", "colour": 1}}, 400, "unknown_field"),
    "missing-field": (CHAT, {"json": {}}, 400, "missing_field"),
    "empty-prompt": (TEXT, {"json": {"prompt": ""}}, 400, "empty_prompt"),
    "empty-tokens": (TEXT, {"json": {"prompt": []}}, 400, "empty_prompt"),
    "empty-message": (CHAT, {"json": {"messages": [{"role": "user", "content": " "}]}}, 400, "empty_prompt"),
    "over-long-prompt": (TEXT, {"json": {"prompt": [100] * 65_537}}, 400, "prompt_too_long"),
    "over-long-text": (TEXT, {"json": {"prompt": "word " * 140_000}}, 400, "prompt_too_long"),
    "token-outside": (TEXT, {"json": {"prompt": [8192]}}, 400, "invalid_token"),
    "wrong-type": (TEXT, {"json": {"prompt": "a", "max_tokens": "many"}}, 400, "invalid_type"),
    "wrong-role": (CHAT, {"json": {"messages": [{"role": "boss", "content": "a"}]}}, 400, "invalid_value"),
    "nan": (TEXT, raw('{"prompt": "a", "temperature": NaN}'), 400, "invalid_json"),
    "infinity": (TEXT, raw('{"prompt": "a", "top_p": 1e999}'), 400, "invalid_value"),
    "huge-number": (TEXT, {"json": {"prompt": "a", "max_tokens": 10**30}}, 400, "invalid_value"),
    "huge-seed": (TEXT, {"json": {"prompt": "a", "seed": 2**64}}, 400, "invalid_value"),
    "too-many-tokens": (TEXT, {"json": {"prompt": "a", "max_tokens": 8193}}, 400, "invalid_value"),
    "bad-utf-8": (TEXT, raw(b'{"prompt": "\xff\xfe"}'), 400, "invalid_json"),
    "lone-surrogate": (TEXT, raw('{"prompt": "\\ud800"}'), 400, "invalid_json"),
    "no-json": (TEXT, raw("{"), 400, "invalid_json"),
    "other-type": (TEXT, {"content": b"prompt=a"}, 415, "unsupported_media_type"),
    "large-body": (TEXT, raw('{"prompt": "' + "x" * LIMIT + '"}'), 413, "body_too_large"),
    "unknown-route": ("/v1/embeddings", {"json": {}}, 404, "route_not_found"),
    "wrong-method": (f"{SESSIONS}/none/levels", {"json": {}}, 405, "method_not_allowed"),
}


@pytest.fixture(scope="module")
def session(server: Any) -> str:
    with server.client() as client:
        session: str = client.sessions.create().id
        client.completions([150] * 30, session_id=session, max_tokens=3, ignore_eos=True)
    return session


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_and_changes_nothing(
    server: Any, client: Client, session: str, case: str
) -> None:
    path, request, status, code = BAD[case]
    before = client.sessions.get(session), client.sessions.levels(session)
    headers = {**request.get("headers", {}), "X-Session-ID": session}
    answer = httpx.post(f"{server.url}{path}", **{**request, "headers": headers}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-should-retry"] == "false"
    assert (client.sessions.get(session), client.sessions.levels(session)) == before
    assert server.process.poll() is None


@pytest.mark.parametrize("path", [TEXT, CHAT])
@pytest.mark.parametrize("session_id", ["nobody", "0" * 32])
def test_an_unknown_session(server: Any, path: str, session_id: str) -> None:
    body: dict[str, Any] = {"prompt": "a"} if path == TEXT else {"messages": HI}
    for stream in (False, True):
        asked = {**body, "stream": stream, "session_id": session_id}
        answer = httpx.post(f"{server.url}{path}", json=asked, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found")


def test_an_odd_body_does_not_reach_the_model(server: Any) -> None:
    """Deep and wide JSON is refused by its shape, whatever it costs to parse."""
    for body in ("[" * 100_000, '{"a":' * 100_000, json.dumps({"prompt": [[1]] * 1000})):
        answer = httpx.post(f"{server.url}{TEXT}", **raw(body), timeout=60)
        assert answer.status_code == 400
        assert len(answer.text) < 1000
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
