"""What a request without the right key gets, on every route."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from hope_server.api.context import PUBLIC_PATHS
from hope_server.tenants.key_file import KeyFile


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def calls(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path of the description, and some that there are not."""
    paths = app.openapi()["paths"]
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [
        *found,
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("PUT", "/v1/sessions"),
        ("GET", "http://127.0.0.1//health"),
        ("GET", "/static/nothing.js"),
    ]


async def test_no_route_answers_without_a_key(app: FastAPI, http: httpx.AsyncClient, keys: KeyFile) -> None:
    keys.create("acme")
    asked = 0
    for method, path in calls(app):
        if path in PUBLIC_PATHS:
            continue
        for headers, code in (({}, "missing_api_key"), (bearer("hk_x"), "invalid_api_key")):
            answer = await http.request(method, path, headers=headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (401, code), (method, path)
            assert set(error) == {"message", "type", "param", "code"}
            assert error["type"] == "invalid_request_error"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-should-retry"] == "false"
            assert answer.headers["x-request-id"]
            asked += 1
    assert asked >= 26


async def test_probes_need_no_key_but_the_costly_check_does(http: httpx.AsyncClient, keys: KeyFile) -> None:
    _, tenant = keys.create("acme")
    _, operator = keys.create(None)
    assert (await http.get("/health")).status_code == (await http.get("/ready")).status_code == 200
    check = "/health?verify_slow_weights=true"
    for headers, status in (({}, 403), (bearer(tenant), 403), (bearer(operator), 200)):
        assert (await http.get(check, headers=headers)).status_code == status
        if headers:
            assert (await http.get("/metrics", headers=headers)).status_code == status


async def test_an_operator_s_key_opens_no_session(http: httpx.AsyncClient, keys: KeyFile) -> None:
    _, operator = keys.create(None)
    for method, path in (("GET", "/v1/sessions"), ("POST", "/v1/sessions"), ("POST", "/v1/completions")):
        answer = await http.request(method, path, headers=bearer(operator))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert (await http.get("/v1/models", headers=bearer(operator))).status_code == 200


async def test_keys_begin_and_end_without_a_restart(http: httpx.AsyncClient, keys: KeyFile) -> None:
    assert (await http.get("/v1/sessions")).status_code == 200
    record, key = keys.create("acme")
    assert (await http.get("/v1/sessions")).status_code == 401
    assert (await http.get("/v1/sessions", headers=bearer(key))).status_code == 200
    keys.revoke(record.id)
    assert (await http.get("/v1/sessions", headers=bearer(key))).status_code == 401


async def test_what_was_made_without_keys_belongs_to_the_default_tenant(
    http: httpx.AsyncClient, keys: KeyFile, session: str
) -> None:
    _, key = keys.create("default")
    _, other = keys.create("acme")
    assert (await http.get(f"/v1/sessions/{session}", headers=bearer(key))).json()["id"] == session
    assert (await http.get(f"/v1/sessions/{session}", headers=bearer(other))).status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "10.1.2.3:8000"])
async def test_without_keys_another_s_name_is_refused(http: httpx.AsyncClient, host: str) -> None:
    answer = await http.get("/v1/sessions", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "loopback_only")
    assert (await http.get("/health", headers={"Host": host})).status_code == 200


async def test_refusals_are_counted(http: httpx.AsyncClient, keys: KeyFile) -> None:
    keys.create("acme")
    _, operator = keys.create(None)
    await http.get("/v1/sessions")
    text = (await http.get("/metrics", headers=bearer(operator))).text
    assert 'hope:request_errors_total{code="missing_api_key",engine="0",model_name="hope-test"} 1.0' in text
