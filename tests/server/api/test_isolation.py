"""Three tenants on one server: whatever one asks about another's session, there is none."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI

from hope_server.tenants.key_file import KeyFile

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

TEXT, CHAT, SESSIONS = "/v1/completions", "/v1/chat/completions", "/v1/sessions"
UNKNOWN = "0" * 32
NAMES = ("acme", "acme-2", "default")
"""One begins like another; one owns what is made without keys."""


BODIES: dict[str, Any] = {"rollback": {"json": {"seq": 1}}, "patch": {"json": {"name": "mine"}}}
"""Of routes that do not take an empty one."""


class Tenant(NamedTuple):
    name: str
    headers: dict[str, str]
    session: str
    secret: str


@pytest.fixture
async def tenants(http: httpx.AsyncClient, keys: KeyFile, engine: ScriptedEngine) -> list[Tenant]:
    """Each with a session that has read and written a text of its own."""
    made = []
    for name in NAMES:
        headers = {"Authorization": f"Bearer {keys.create(name)[1]}", "X-Request-ID": "same"}
        secret = f"canary of <{name}>"
        body = (await http.post(SESSIONS, json={"name": secret}, headers=headers)).json()
        engine.says(f"{secret}, answered")
        turn = {"prompt": f"{secret}, asked", "session_id": body["id"], "max_tokens": 50}
        assert (await http.post(TEXT, json=turn, headers=headers)).status_code == 200
        made.append(Tenant(name, headers, body["id"], secret))
    engine.says("nothing of anybody")
    return made


def requests(app: FastAPI, session: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every request that can name a session: paths from the description, bodies, headers, cursors."""
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            if "{session_id}" in path:
                yield method, path.replace("{session_id}", session), _body(method, path)
    messages = [{"role": "user", "content": "hi"}]
    for path, body in ((TEXT, {"prompt": "hi"}), (CHAT, {"messages": messages})):
        for stream in (False, True):
            asked = {**body, "stream": stream}
            yield "post", path, {"json": {**asked, "session_id": session}}
            yield "post", path, {"json": asked, "headers": {"X-Session-ID": session}}
            yield "post", path, {"json": asked, "headers": {"X-Session-ID": session, "Idempotency-Key": "k"}}
    yield "get", SESSIONS, {"params": {"after": session}}


def _body(method: str, path: str) -> dict[str, Any]:
    body: dict[str, Any] = BODIES.get(path.rpartition("/")[2]) or BODIES.get(method, {})
    return body


async def ask(
    http: httpx.AsyncClient, tenant: Tenant, method: str, path: str, more: dict[str, Any]
) -> httpx.Response:
    return await http.request(
        method, path, **{**more, "headers": {**tenant.headers, **more.get("headers", {})}}
    )


async def test_a_foreign_session_is_answered_as_none(
    app: FastAPI, http: httpx.AsyncClient, tenants: list[Tenant], engine: ScriptedEngine
) -> None:
    before = {key: await engine.store.meta(key) for key in list(engine.store._sessions)}
    asked = 0
    for tenant in tenants:
        for owner in tenants:
            if owner is tenant:
                continue
            foreign, unknown = requests(app, owner.session), requests(app, UNKNOWN)
            for (method, path, more), (_, other_path, other) in zip(foreign, unknown, strict=True):
                answer = await ask(http, tenant, method, path, more)
                expected = await ask(http, tenant, method, other_path, other)
                assert answer.status_code == 404, (method, path, answer.text)
                assert answer.content == expected.content
                assert answer.json()["error"]["code"] == "session_not_found"
                differing = {
                    name for name in answer.headers if answer.headers[name] != expected.headers[name]
                }
                assert differing == set()
                asked += 1
    assert asked >= 6 * 20
    assert {key: await engine.store.meta(key) for key in before} == before


async def test_a_foreign_session_in_a_turn_is_not_even_busy(
    app: FastAPI, http: httpx.AsyncClient, tenants: list[Tenant], engine: ScriptedEngine
) -> None:
    engine.pause_at = 1
    owner, tenant = tenants[:2]
    turn = {"prompt": "a", "session_id": owner.session}
    running = asyncio.create_task(http.post(TEXT, json=turn, headers=owner.headers))
    await engine.paused.wait()
    busy = await http.delete(f"{SESSIONS}/{owner.session}", headers=owner.headers)
    assert busy.json()["error"]["code"] == "session_busy"
    for method, path, more in requests(app, owner.session):
        assert (await ask(http, tenant, method, path, more)).status_code == 404
    engine.resume.set()
    assert (await running).status_code == 200


async def test_a_listing_shows_one_s_own_alone(http: httpx.AsyncClient, tenants: list[Tenant]) -> None:
    for tenant in tenants:
        for _ in range(4):
            await http.post(SESSIONS, headers=tenant.headers)
    for tenant in tenants:
        found, after = [], None
        while True:
            params = {"limit": 2, **({"after": after} if after else {})}
            page = (await http.get(SESSIONS, params=params, headers=tenant.headers)).json()
            found += page["data"]
            if not page["has_more"]:
                break
            after = page["last_id"]
            assert tenant.name not in after
        assert len(found) == len({session["id"] for session in found}) == 5
        assert [session["name"] for session in found] == [tenant.secret, None, None, None, None]


async def test_another_s_cursor_is_a_time_and_nothing_more(
    http: httpx.AsyncClient, tenants: list[Tenant]
) -> None:
    cursors = [(await http.get(SESSIONS, headers=t.headers)).json()["last_id"] for t in tenants]
    for tenant in tenants:
        for cursor in cursors:
            page = (await http.get(SESSIONS, params={"after": cursor}, headers=tenant.headers)).json()
            assert {session["id"] for session in page["data"]} <= {tenant.session}


async def test_no_answer_metric_or_log_line_holds_another_s_bytes(
    app: FastAPI,
    http: httpx.AsyncClient,
    tenants: list[Tenant],
    keys: KeyFile,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for tenant in tenants:
        others = [other for other in tenants if other is not tenant]
        shown = ""
        for owner in tenants:
            for method, path, more in requests(app, owner.session):
                if (method, owner) != ("delete", tenant):
                    shown += (await ask(http, tenant, method, path, more)).text
        assert tenant.secret in shown
        for other in others:
            assert other.secret not in shown
            assert other.session not in shown
    operator = {"Authorization": f"Bearer {keys.create(None)[1]}"}
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("hope")]
    assert ours
    kept = "\n".join([(await http.get("/metrics", headers=operator)).text, *ours])
    for tenant in tenants:
        for theirs in (tenant.secret, tenant.session, tenant.headers["Authorization"][7:]):
            assert theirs not in kept


async def test_the_same_key_and_request_id_of_two_tenants_have_nothing_to_do_with_each_other(
    http: httpx.AsyncClient, tenants: list[Tenant]
) -> None:
    for tenant in tenants:
        body = {"prompt": "a", "session_id": tenant.session}
        headers = {**tenant.headers, "Idempotency-Key": "one"}
        assert (await http.post(TEXT, json=body, headers=headers)).status_code == 200
        again = await http.post(TEXT, json=body, headers=headers)
        assert (again.status_code, again.json()["error"]["code"]) == (409, "already_learned")


def test_the_description_has_routes_to_ask(app: FastAPI) -> None:
    """Those that name a session; one more must not be missed."""
    named = [path for path in app.openapi()["paths"] if "{session_id}" in path]
    assert sum(len(app.openapi()["paths"][path]) for path in named) == 13
    assert json.dumps(named).count("session_id") == len(named)
