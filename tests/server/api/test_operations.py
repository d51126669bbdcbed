from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx

from hope_server.api.runtime import Runtime
from hope_server.errors import StoreUnavailable

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine


async def test_models(http: httpx.AsyncClient) -> None:
    (model,) = (await http.get("/v1/models")).json()["data"]
    assert model == {"id": "hope-test", "object": "model", "created": 1_700_000_000, "owned_by": "hope"}
    assert (await http.get("/v1/models/hope-test")).json() == model


async def test_health_and_ready(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).json() == {"status": "ok"}
    assert (await http.get("/ready")).json()["status"] == "ready"
    for path in ("/health", "/ready", "/metrics", "/v1/models"):
        assert (await http.head(path)).status_code == 200


async def test_a_stopping_server_lives_but_admits_nothing(
    http: httpx.AsyncClient, runtime: Runtime, session: str
) -> None:
    runtime.stopping = True
    assert (await http.get("/health")).status_code == 200
    assert (await http.get(f"/v1/sessions/{session}")).status_code == 200
    chat = {"messages": [{"role": "user", "content": "a"}]}
    for refused in (
        await http.get("/ready"),
        await http.post("/v1/sessions"),
        await http.post(f"/v1/sessions/{session}/reset"),
        await http.post("/v1/completions", json={"prompt": "a"}),
        await http.post("/v1/chat/completions", json={**chat, "stream": True}),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert refused.headers["retry-after"]


async def test_not_ready_without_a_store(http: httpx.AsyncClient, runtime: Runtime) -> None:
    async def down() -> None:
        raise StoreUnavailable("the store does not answer")

    runtime.check_store = down
    answer = await http.get("/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert (await http.get("/health")).status_code == 200


async def test_the_slow_weights_are_checked_on_demand(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    check = "/health?verify_slow_weights=true"
    assert (await http.get(check)).status_code == 200
    assert 'hope:slow_weights_ok{engine="0",model_name="hope-test"} 1.0' in (await http.get("/metrics")).text
    engine.slow_weights_ok = False
    answer = await http.get(check)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "slow_weights_changed")
    assert 'hope:slow_weights_ok{engine="0",model_name="hope-test"} 0.0' in (await http.get("/metrics")).text


async def test_no_metric_names_a_session(http: httpx.AsyncClient, session: str) -> None:
    body = {"prompt": "ab", "session_id": session}
    assert (await http.post("/v1/completions", json=body)).status_code == 200
    await http.get("/v1/sessions/somebody-else")
    text = (await http.get("/metrics")).text
    assert session not in text
    assert "somebody-else" not in text
    labels = {name for found in re.findall(r"\{(.*)\}", text) for name in re.findall(r'(\w+)="', found)}
    assert "model_name" in labels
    # No label whose values come from requests.
    kinds = {"level", "le", "code", "reason", "finished_reason", "result", "residency", "sha256"}
    kinds |= {"method", "route", "status", "operation", "outcome", "version"}
    assert labels <= {"model_name", "engine", *kinds}


async def test_requests_are_counted_by_declared_route(http: httpx.AsyncClient, session: str) -> None:
    await http.get(f"/v1/sessions/{session}")
    await http.get("/v1/sessions/elsewhere?secret=1")
    await http.request("BREW", "/nowhere")
    text = (await http.get("/metrics")).text
    labels = 'engine="0",method="{}",model_name="hope-test",route="{}",status="{}"'
    for method, route, status in (
        ("GET", "/v1/sessions/{session_id}", 200),
        ("GET", "/v1/sessions/{session_id}", 404),
        ("other", "(no route)", 404),
    ):
        assert f"hope:http_requests_total{{{labels.format(method, route, status)}}} 1.0" in text
    assert re.search(r'hope:http_request_duration_seconds_count\{.*route="\(no route\)"\} 1.0', text)
    assert "BREW" not in text
    assert "secret" not in text


async def test_rejections_are_counted(http: httpx.AsyncClient, runtime: Runtime) -> None:
    runtime.stopping = True
    await http.post("/v1/completions", json={"prompt": "a"})
    text = (await http.get("/metrics")).text
    assert (
        'hope:admission_rejections_total{engine="0",model_name="hope-test",reason="shutting_down"} 1.0'
        in text
    )


async def test_a_request_id_goes_in_and_out(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    headers = {"X-Request-ID": "abc-1"}
    answer = await http.post("/v1/completions", json={"prompt": "a"}, headers=headers)
    assert answer.headers["x-request-id"] == "abc-1"
    assert engine.requests[-1].request_id == "abc-1"
    refused = await http.get("/nowhere", headers=headers)
    assert refused.headers["x-request-id"] == "abc-1"


async def test_an_unfit_request_id_is_replaced(http: httpx.AsyncClient) -> None:
    for unfit in (b"", b"a b", b"x" * 129, "é".encode()):
        answer = await http.get("/health", headers={b"X-Request-ID": unfit})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_the_description_names_every_route_and_body(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/{identity}",
        "/v1/responses/{identity}/input_items",
        "/v1/conversations",
        "/v1/conversations/{identity}",
        "/v1/conversations/{identity}/items",
        "/v1/conversations/{identity}/items/{item_id}",
        "/tokenize",
        "/detokenize",
        "/tokenizer_info",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/sessions",
        "/v1/sessions/{session_id}",
        "/v1/sessions/{session_id}/reset",
        "/v1/sessions/{session_id}/fork",
        "/v1/sessions/{session_id}/rollback",
        "/v1/sessions/{session_id}/verify",
        "/v1/sessions/{session_id}/diff",
        "/v1/sessions/{session_id}/export",
        "/v1/sessions/import",
        "/v1/sessions/{session_id}/levels",
        "/v1/sessions/{session_id}/events",
        "/v1/sessions/{session_id}/messages",
        "/v1/sessions/{session_id}/loss",
        "/health",
        "/ready",
        "/metrics",
    }
    body = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]
    name = body["schema"]["$ref"].rpartition("/")[2]
    assert "prompt" in document["components"]["schemas"][name]["properties"]
    known = document["components"]["schemas"]
    assert {
        ref.rpartition("/")[2] for ref in re.findall(r'"\$ref": ?"([^"]+)"', str(document).replace("'", '"'))
    } <= set(known)
