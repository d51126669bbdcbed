"""What every answer carries, and what none does."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import httpx
import pytest

from hope_server import errors
from hope_server.api.headers import SECURITY_HEADERS
from hope_server.api.runtime import Runtime
from hope_server.errors import HopeError, RequestError, StartupError
from hope_server.tenants.key_file import KeyFile

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

TEXT = "/v1/completions"


def guarded(headers: httpx.Headers) -> bool:
    return all(headers.get_list(name) == [value] for name, value in SECURITY_HEADERS.items())


async def test_every_kind_of_answer_has_the_headers(
    http: httpx.AsyncClient, engine: ScriptedEngine, keys: KeyFile
) -> None:
    answers = [
        await http.get("/health"),
        await http.head("/ready"),
        await http.get("/metrics"),
        await http.get("/openapi.json"),
        await http.get("/nowhere"),
        await http.put(TEXT),
        await http.get("/v1/sessions/none"),
        await http.post(TEXT, json={"prompt": "a"}),
        await http.post(TEXT, json={"prompt": "a", "stream": True}),
        await http.post(TEXT, content=b"{", headers={"content-type": "application/json"}),
        await http.post(TEXT, content=b"x" * 70_000),
    ]
    engine.refusal = ZeroDivisionError()
    answers.append(await http.post(TEXT, json={"prompt": "a"}))
    keys.create("acme")
    answers.append(await http.get("/v1/models"))
    assert {answer.status_code for answer in answers} == {200, 400, 401, 404, 405, 413, 500}
    for answer in answers:
        assert guarded(answer.headers), answer
        assert "server" not in answer.headers


@pytest.mark.settings(head_timeout_s=0.05, max_connections=1)
@pytest.mark.parametrize(("sent", "status"), [(b"x\r\n\r\n", 400), (b"x" * 40_000, 431), (b"GET /", 408)])
async def test_refusals_below_the_app_have_them_too(port: int, sent: bytes, status: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if status == 408:
        second, other = await asyncio.open_connection("127.0.0.1", port)
        assert b" 503 " in (answer := await second.read())
        assert all(f"{name}: {value}".encode() in answer for name, value in SECURITY_HEADERS.items())
        other.close()
    writer.write(sent)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert all(f"{name}: {value}".encode() in answer for name, value in SECURITY_HEADERS.items())


def kinds(base: type[HopeError]) -> list[type[HopeError]]:
    return [base, *(kind for each in base.__subclasses__() for kind in kinds(each))]


SERVERS_OWN = [kind for kind in kinds(HopeError) if not issubclass(kind, RequestError)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", SERVERS_OWN, ids=lambda kind: kind.__name__)
async def test_an_error_of_the_server_s_own_tells_its_kind_and_the_request_alone(
    http: httpx.AsyncClient, engine: ScriptedEngine, kind: type[HopeError], stream: bool
) -> None:
    engine.failure = (1, kind("redis://secret@host at 0x7f00"))
    body = {"prompt": "a", "stream": stream}
    answer = await http.post(TEXT, json=body, headers={"X-Request-ID": "find-me"})
    error = re.search(r'\{"error":.*\}', answer.text)
    assert error is not None
    assert kind.default_code in error[0]
    assert f"{kind.public_message}; the server's log has more under request find-me" in error[0]
    assert "secret" not in answer.text
    assert "0x7f00" not in answer.text


async def test_what_the_caller_is_not_told_is_in_the_log(
    http: httpx.AsyncClient, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.refusal = errors.StoreUnavailable("the reason")
    await http.post(TEXT, json={"prompt": "a"})
    assert "answered store_unavailable: the reason" in caplog.text


async def test_the_store_s_settings_are_not_told_to_whoever_probes(
    http: httpx.AsyncClient, runtime: Runtime
) -> None:
    async def unfit() -> None:
        raise errors.StoreConfigError("maxmemory-policy of redis://inside is allkeys-lru")

    runtime.check_store = unfit
    answer = await http.get("/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_config_error")
    assert "redis" not in answer.text


def test_every_error_has_a_code_of_its_own_and_a_status() -> None:
    own = [kind for kind in kinds(HopeError) if kind not in (HopeError, errors.ServerError, RequestError)]
    codes = [kind.default_code for kind in own if kind is not errors.InternalError]
    assert len(codes) == len(set(codes))
    for kind in own:
        assert 400 <= kind.status < 600
        if not issubclass(kind, RequestError | StartupError):
            assert kind.status >= 500
