"""Quotas over HTTP: who is refused, with what, and that it costs nobody else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from hope_server.tenants.key_file import KeyFile

if TYPE_CHECKING:
    from tests.server.api.conftest import Clock, ScriptedEngine

TEXT, SESSIONS = "/v1/completions", "/v1/sessions"
Headers = dict[str, str]


@pytest.fixture
def acme(keys: KeyFile) -> Headers:
    return {"Authorization": f"Bearer {keys.create('acme')[1]}"}


@pytest.fixture
def umbrella(keys: KeyFile) -> Headers:
    return {"Authorization": f"Bearer {keys.create('umbrella')[1]}"}


def limit(keys: KeyFile, **numbers: int) -> None:
    lines = "".join(f"{name} = {number}\n" for name, number in numbers.items())
    (keys.directory / "quotas.toml").write_text(f"[tenants.acme]\n{lines}")


def expect(answer: httpx.Response, status: int, code: str, *, retry: str, after: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (answer.headers["x-should-retry"], answer.headers["retry-after"]) == (retry, after)


async def test_sessions(http: httpx.AsyncClient, keys: KeyFile, acme: Headers, umbrella: Headers) -> None:
    limit(keys, sessions=2)
    made = [(await http.post(SESSIONS, headers=acme)).json()["id"] for _ in range(2)]
    refused = await http.post(SESSIONS, headers=acme)
    expect(refused, 507, "session_quota_exceeded", retry="false", after="60")
    assert refused.json()["error"]["type"] == "insufficient_quota"
    assert (await http.post(SESSIONS, headers=umbrella)).status_code == 200
    await http.delete(f"{SESSIONS}/{made[0]}", headers=acme)
    assert (await http.post(SESSIONS, headers=acme)).status_code == 200


async def test_bytes(http: httpx.AsyncClient, keys: KeyFile, acme: Headers) -> None:
    limit(keys, stored_bytes=20_000)
    session = (await http.post(SESSIONS, headers=acme)).json()["id"]
    for prompt, status in (("a" * 100, 200), ("a" * 1000, 507), ("a" * 100, 200)):
        body = {"prompt": prompt, "max_tokens": 5, "session_id": session}
        answer = await http.post(TEXT, json=body, headers=acme)
        assert answer.status_code == status, answer.text
    refused = await http.post(TEXT, json={"prompt": "a" * 1000, "session_id": session}, headers=acme)
    expect(refused, 507, "storage_quota_exceeded", retry="false", after="60")
    ephemeral = await http.post(TEXT, json={"prompt": "a" * 1000}, headers=acme)
    assert ephemeral.status_code == 200


async def test_tokens_per_minute(
    http: httpx.AsyncClient, keys: KeyFile, clock: Clock, acme: Headers, umbrella: Headers
) -> None:
    limit(keys, tokens_per_minute=60)
    body = {"prompt": "a" * 85, "max_tokens": 5}
    assert (await http.post(TEXT, json=body, headers=acme)).status_code == 200
    refused = await http.post(TEXT, json={**body, "stream": True}, headers=acme)
    expect(refused, 429, "token_quota_exceeded", retry="true", after="30")
    assert (await http.post(TEXT, json=body, headers=umbrella)).status_code == 200
    clock.now += 30
    assert (await http.post(TEXT, json=body, headers=acme)).status_code == 200


async def test_turns_at_once(
    http: httpx.AsyncClient, engine: ScriptedEngine, keys: KeyFile, acme: Headers, umbrella: Headers
) -> None:
    limit(keys, concurrent_turns=1)
    engine.pause_at = 1
    running = asyncio.create_task(http.post(TEXT, json={"prompt": "a"}, headers=acme))
    await engine.paused.wait()
    refused = await http.post(TEXT, json={"prompt": "a"}, headers=acme)
    expect(refused, 429, "turn_quota_exceeded", retry="true", after="1")
    engine.resume.set()
    assert (await running).status_code == 200
    for headers in (acme, umbrella):
        assert (await http.post(TEXT, json={"prompt": "a"}, headers=headers)).status_code == 200


async def test_a_refused_turn_gives_its_place_back(
    http: httpx.AsyncClient, keys: KeyFile, acme: Headers
) -> None:
    limit(keys, concurrent_turns=1)
    for _ in range(3):
        body = {"prompt": "a", "session_id": "0" * 32}
        assert (await http.post(TEXT, json=body, headers=acme)).status_code == 404
    assert (await http.post(TEXT, json={"prompt": "a"}, headers=acme)).status_code == 200


async def test_without_keys_there_is_no_quota(http: httpx.AsyncClient, keys: KeyFile) -> None:
    keys.directory.mkdir()
    (keys.directory / "quotas.toml").write_text("[default]\nsessions = 0\nconcurrent_turns = 0\n")
    assert (await http.post(SESSIONS)).status_code == 200
    assert (await http.post(TEXT, json={"prompt": "a"})).status_code == 200


async def test_refusals_are_counted_without_naming_a_tenant(
    http: httpx.AsyncClient, keys: KeyFile, acme: Headers
) -> None:
    limit(keys, sessions=0)
    await http.post(SESSIONS, headers=acme)
    operator = {"Authorization": f"Bearer {keys.create(None)[1]}"}
    text = (await http.get("/metrics", headers=operator)).text
    reasons = 'hope:admission_rejections_total{engine="0",model_name="hope-test",reason='
    assert f'{reasons}"session_quota_exceeded"}} 1.0' in text
    assert f'{reasons}"token_quota_exceeded"}} 0.0' in text
    assert "acme" not in text
