"""`response_format`: what reaches the engine, and what is refused before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 5}}}


@pytest.mark.parametrize(("form", "first"), [(SCHEMA, b"5"), ({"type": "json_object"}, b"{")])
@pytest.mark.parametrize("body", [{"prompt": "a"}, {"messages": HI}])
async def test_every_choice_has_a_constraint_of_its_own(
    http: httpx.AsyncClient, engine: ScriptedEngine, body: Any, form: Any, first: bytes
) -> None:
    url = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    assert (await http.post(url, json={**body, "n": 2, "response_format": form})).is_success
    one, other = (request.constraint for request in engine.requests)
    assert one is not None
    assert one is not other
    mask = one.allowed()
    assert mask[(6 + first[0]) // 8] >> (6 + first[0]) % 8 & 1


async def test_any_text_needs_no_constraint(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    answer = await http.post("/v1/completions", json={"prompt": "a", "response_format": {"type": "text"}})
    assert answer.is_success
    assert engine.requests[-1].constraint is None


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"$ref": "file:///etc/passwd"}])
async def test_a_bad_schema_is_the_caller_s_fault(
    http: httpx.AsyncClient, engine: ScriptedEngine, schema: Any
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = await http.post("/v1/chat/completions", json={"messages": HI, "response_format": form})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_schema", "response_format")
    assert not engine.requests
