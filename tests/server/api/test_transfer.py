"""Export and import as HTTP shows them; tests/server/engine/test_export.py has what is in the files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.server.api.test_quotas import expect

from hope_server.api.runtime import Runtime, Transfers
from hope_server.errors import SessionCorrupted
from hope_server.sessions.container import Packer, Preface
from hope_server.tenants.key_file import KeyFile

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

URL, TEXT, IMPORT = "/v1/sessions", "/v1/completions", "/v1/sessions/import"
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture
async def told(http: httpx.AsyncClient, engine: ScriptedEngine, session: str) -> str:
    """A session that has read "ab" and written "cd" and an end."""
    engine.says("cd")
    await http.post(TEXT, json={"prompt": "ab", "session_id": session})
    return session


def bearer(keys: KeyFile, tenant: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {keys.create(tenant)[1]}"}


async def send(http: httpx.AsyncClient, data: bytes, **headers: str) -> httpx.Response:
    return await http.post(IMPORT, content=data, headers={**OCTETS, **headers})


async def test_a_session_goes_out_and_in_again(http: httpx.AsyncClient, told: str) -> None:
    file = await http.get(f"{URL}/{told}/export")
    assert (file.status_code, file.headers["content-type"]) == (200, "application/octet-stream")
    assert file.headers["content-disposition"] == f'attachment; filename="{told}.hope"'
    assert file.headers["cache-control"] == "no-store"
    for _ in range(2):
        made = (await send(http, file.content)).json()
        assert made["id"] != told
        assert (made["object"], made["seq"], made["tokens"], made["model"]) == ("session", 5, 5, "hope-test")
        ours, theirs = [(await http.get(f"{URL}/{each}/events")).json() for each in (told, made["id"])]
        assert ours == theirs
        file = await http.get(f"{URL}/{made['id']}/export")


@pytest.mark.parametrize("damage", ["empty", "flip", "cut", "longer", "noise"])
async def test_a_file_that_is_none_is_refused_and_leaves_nothing(
    http: httpx.AsyncClient, engine: ScriptedEngine, told: str, damage: str
) -> None:
    good = (await http.get(f"{URL}/{told}/export")).content
    flipped = bytes([*good[:50], good[50] ^ 1, *good[51:]])
    bad = {"empty": b"", "flip": flipped, "cut": good[:-1], "longer": good + b"x", "noise": b"x" * 500}
    answer = await send(http, bad[damage])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_export")
    assert len(engine.store._sessions) == 1


async def test_a_name_longer_than_a_session_s_is_refused(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    packer = Packer(engine.store.keys)
    data = b"".join(packer.preface(Preface("5" * 64, "n" * 201, 0, {}))) + packer.end()
    assert (await send(http, data)).json()["error"]["code"] == "invalid_export"
    assert not engine.store._sessions


@pytest.mark.parametrize("kind", ["", "application/json", "text/plain", "multipart/form-data"])
async def test_only_a_declared_file_is_read(http: httpx.AsyncClient, kind: str) -> None:
    answer = await http.post(IMPORT, content=b"x", headers={"Content-Type": kind} if kind else {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.settings(max_import_bytes=2048)
async def test_a_file_has_a_limit_of_its_own(http: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 1000

    assert (await send(http, b"x" * 2048)).json()["error"]["code"] == "invalid_export"
    for content in (b"x" * 2049, chunks()):
        answer = await http.post(IMPORT, content=content, headers=OCTETS)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_what_is_stored_is_booked_first_and_given_back(
    http: httpx.AsyncClient, engine: ScriptedEngine, keys: KeyFile
) -> None:
    acme = bearer(keys, "acme")
    quotas = keys.directory / "quotas.toml"
    session = (await http.post(URL, headers=acme)).json()["id"]
    await http.post(TEXT, json={"prompt": "a" * 100, "max_tokens": 1, "session_id": session}, headers=acme)
    file = (await http.get(f"{URL}/{session}/export", headers=acme)).content
    quotas.write_text("[default]\nsessions = 1\n")
    expect(await send(http, file, **acme), 507, "session_quota_exceeded", retry="false", after="60")
    quotas.write_text("[default]\nstored_bytes = 14_000\n")
    expect(await send(http, file, **acme), 507, "storage_quota_exceeded", retry="false", after="60")
    assert len(engine.store._sessions) == 1
    quotas.write_text("[default]\nsessions = 3\ntokens_per_minute = 150\n")
    for _ in range(2):
        assert (await send(http, file, **acme)).status_code == 200
    expect(await send(http, file, **acme), 429, "token_quota_exceeded", retry="true", after="21")


@pytest.mark.settings(max_transfers=3)
async def test_few_run_at_once_and_no_tenant_takes_all(
    http: httpx.AsyncClient, engine: ScriptedEngine, keys: KeyFile, runtime: Runtime
) -> None:
    acme, umbrella = bearer(keys, "acme"), bearer(keys, "umbrella")
    session = (await http.post(URL, headers=acme)).json()["id"]
    file = (await http.get(f"{URL}/{session}/export", headers=acme)).content
    with runtime.transfers.hold("acme"):
        expect(await send(http, file, **acme), 429, "too_many_transfers", retry="true", after="1")
        refused = await http.get(f"{URL}/{session}/export", headers=acme)
        expect(refused, 429, "too_many_transfers", retry="true", after="1")
        assert (await send(http, file, **umbrella)).status_code == 200
        with runtime.transfers.hold("third"), runtime.transfers.hold("fourth"):
            expect(await send(http, file, **umbrella), 429, "too_many_transfers", retry="true", after="1")
    assert (await send(http, file, **acme)).status_code == 200


async def test_another_s_file_brings_a_session_of_one_s_own(
    http: httpx.AsyncClient, keys: KeyFile, told: str
) -> None:
    default, acme = bearer(keys, "default"), bearer(keys, "acme")
    assert (await http.get(f"{URL}/{told}/export", headers=acme)).status_code == 404
    file = (await http.get(f"{URL}/{told}/export", headers=default)).content
    made = (await send(http, file, **acme)).json()["id"]
    assert (await http.get(f"{URL}/{made}", headers=default)).status_code == 404
    assert [each["id"] for each in (await http.get(URL, headers=acme)).json()["data"]] == [made]


async def leave(port: int, request: bytes) -> asyncio.StreamWriter:
    """A connection that has sent `request`."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    return writer


class Watched(Transfers):
    """Says when a place was taken and when it was free again."""

    def __init__(self) -> None:
        super().__init__(most=2)
        self.taken, self.free = asyncio.Event(), asyncio.Event()

    @contextmanager
    def hold(self, tenant: str) -> Iterator[None]:
        try:
            with super().hold(tenant):
                self.taken.set()
                self.free.clear()
                yield
        finally:
            self.free.set()


@pytest.fixture
def transfers(runtime: Runtime) -> Watched:
    runtime.transfers = watched = Watched()
    return watched


@pytest.mark.parametrize("moment", ["in the body", "while it is stored"])
async def test_a_client_that_leaves_an_import_leaves_nothing(
    http: httpx.AsyncClient, engine: ScriptedEngine, transfers: Watched, port: int, told: str, moment: str
) -> None:
    file = (await http.get(f"{URL}/{told}/export")).content
    head = f"POST {IMPORT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
    transfers.taken.clear()
    request = f"{head}Content-Length: {len(file)}\r\n\r\n".encode() + file
    if moment == "in the body":
        writer = await leave(port, request[:-1])
        await transfers.taken.wait()
    else:
        engine.pause_at = 0
        writer = await leave(port, request)
        await engine.paused.wait()
        assert len(engine.store._sessions) == 2
    writer.close()
    await asyncio.wait_for(transfers.free.wait(), 10)
    assert len(engine.store._sessions) == 1
    engine.pause_at = None
    assert (await send(http, file)).status_code == 200


async def test_a_client_that_leaves_an_export_gives_its_place_back(
    engine: ScriptedEngine, transfers: Watched, port: int, told: str
) -> None:
    engine.export_paused = asyncio.Event()
    writer = await leave(port, f"GET {URL}/{told}/export HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await engine.paused.wait()
    writer.close()
    await asyncio.wait_for(transfers.free.wait(), 10)


async def test_an_export_that_fails_on_the_way_is_cut_off(
    engine: ScriptedEngine, port: int, told: str
) -> None:
    engine.export_failure = SessionCorrupted("damaged")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{URL}/{told}/export")


@pytest.mark.settings(turn_timeout_s=0.05)
async def test_an_import_that_takes_too_long_ends(
    http: httpx.AsyncClient, engine: ScriptedEngine, told: str
) -> None:
    file = (await http.get(f"{URL}/{told}/export")).content
    engine.pause_at = 0
    answer = await send(http, file)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "turn_timeout")
    assert len(engine.store._sessions) == 1


async def test_a_failed_fork_gives_its_room_back_at_once(
    http: httpx.AsyncClient, engine: ScriptedEngine, keys: KeyFile
) -> None:
    acme = bearer(keys, "acme")
    (keys.directory / "quotas.toml").write_text("[default]\nsessions = 2\n")
    session = (await http.post(URL, headers=acme)).json()["id"]
    for _ in range(3):
        refused = await http.post(f"{URL}/{session}/fork", json={"seq": 9}, headers=acme)
        assert refused.status_code == 400
    assert (await http.post(f"{URL}/{session}/fork", headers=acme)).status_code == 200


async def test_the_description_says_what_goes_in_and_out(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    octets = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    assert paths[f"{URL}/{{session_id}}/export"]["get"]["responses"]["200"]["content"] == octets
    taken = paths[IMPORT]["post"]
    assert taken["requestBody"]["content"] == octets
    assert "Session" in json.dumps(taken["responses"]["200"])
