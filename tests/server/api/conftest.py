"""An app over a scripted engine: its interface and a real store, with answers written by the test."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
from fastapi import FastAPI

from hope_server.api.http_server import HttpServer
from hope_server.api.runtime import Runtime
from hope_server.app import create_app
from hope_server.chat import NativeFormat
from hope_server.config import ServerConfig
from hope_server.constrained import Grammars
from hope_server.engine.exchange import export_session
from hope_server.engine.request import (
    Difference,
    EngineStats,
    FinishReason,
    GenerationRequest,
    LevelChange,
    LevelStatus,
    SessionLoss,
    TokenEvent,
    TokenLogprob,
    TurnFigures,
    Verification,
    request_name,
)
from hope_server.engine.restore import runs_between
from hope_server.metrics import Metrics
from hope_server.sessions.container import Importable, Opened
from hope_server.sessions.copying import Blueprint, build, fork
from hope_server.sessions.history import point_at
from hope_server.sessions.key import DEFAULT_TENANT, SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.sessions.reading import Buffer
from hope_server.sessions.refusals import no_such_seq
from hope_server.sessions.session import JournalRecord, SessionMeta, TurnKey
from hope_server.tenants.account import Accounts
from hope_server.tenants.gate import Gate
from hope_server.tenants.key_file import KeyFile
from hope_server.tenants.quota import QuotaFile

SHA256 = hashlib.sha256(b"slow weights").hexdigest()
NONCE = "a" * 32
ROLES = ("system", "user", "assistant", "tool")


class ByteTokenizer:
    """Token 0 ends a text, 1 ends a message, 2 to 5 open messages, 6 + b is the byte b."""

    vocab_size = 262
    eos_id = 0
    end_id = 1

    def role_id(self, role: str) -> int:
        return 2 + ROLES.index(role)

    def encode(self, text: str) -> list[int]:
        return [6 + byte for byte in text.encode()]

    def added_text(self, token: int) -> str | None:
        return f"<|{token}|>" if token < 6 else None

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(token - 6 for token in ids if token >= 6)


class ScriptedEngine:
    """Gives the tokens of `answer` and journals them as the real engine does."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.requests: list[GenerationRequest] = []
        self.answers: dict[int, list[int]] = {}
        """By the seed of the request, where it is not `answer`."""
        self.answer: list[int] = [*ByteTokenizer().encode("Hello there"), ByteTokenizer.end_id]
        self.refusal: Exception | None = None
        self.failure: tuple[int, Exception] | None = None
        self.pause_at: int | None = None
        self.paused, self.resume, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.deleted = asyncio.Event()
        self.export_paused: asyncio.Event | None = None
        self.export_failure: Exception | None = None
        self.slow_weights_ok = True
        self.restored_sha256 = "1" * 64

    def says(self, text: str) -> None:
        self.answer = [*ByteTokenizer().encode(text), ByteTokenizer.end_id]

    def read(self) -> list[int]:
        """The prompt of the last request."""
        return [token for part in self.requests[-1].prompt for token in part.tokens]

    def read_text(self) -> str:
        """The same as text, without what marks the parts."""
        return bytes(token - 6 for token in self.read() if token >= 6).decode()

    async def meta(self, session_id: str) -> SessionMeta:
        """The head of a session of the tenant that needs no key."""
        return await self.store.meta(SessionKey(DEFAULT_TENANT, session_id))

    async def journal(self, session_id: str) -> list[JournalRecord]:
        """All records of such a session."""
        return await self.store.records(SessionKey(DEFAULT_TENANT, session_id), after=0, limit=1000)

    async def create_session(self, tenant: str, name: str | None = None) -> SessionMeta:
        key = SessionKey(tenant, secrets.token_hex(16))
        return await self.store.create(key, model=SHA256, name=name)

    async def get_session(self, session: SessionKey) -> SessionMeta:
        return await self.store.meta(session)

    async def rename_session(self, session: SessionKey, name: str) -> SessionMeta:
        await self.store.rename(session, name)
        return await self.store.meta(session)

    async def list_sessions(self, tenant: str, *, after: str | None, limit: int) -> list[SessionMeta]:
        return await self.store.list(tenant, after=after, limit=limit)

    async def delete_session(self, session: SessionKey) -> None:
        fence, _ = await self.store.acquire(session, nonce=NONCE, ttl_s=60)
        await self.store.delete(session, fence)
        self.deleted.set()

    async def reset_session(self, session: SessionKey) -> SessionMeta:
        head = (await self.store.meta(session)).head
        await self._append(session, [JournalRecord(head.seq + 1, "reset", "user", ())])
        return await self.store.meta(session)

    async def rollback_session(self, session: SessionKey, *, seq: int) -> SessionMeta:
        to = await point_at(self.store, session, seq)
        fence, meta = await self.store.acquire(session, nonce=NONCE, ttl_s=60)
        await self.store.rollback(session, fence, expected=meta.head, to=to)
        return await self.store.meta(session)

    async def freeze(self, session_id: str, good_seq: int) -> None:
        """The session of the tenant that needs no key learns no more."""
        session = SessionKey(DEFAULT_TENANT, session_id)
        fence, meta = await self.store.acquire(session, nonce=NONCE, ttl_s=60)
        await self.store.freeze(session, fence, expected=meta.head, path=meta.path, good_seq=good_seq)

    async def _frozen(self, session: SessionKey | None) -> bool:
        return session is not None and (await self.store.meta(session)).path.freeze is not None

    async def fork_session(
        self, session: SessionKey, *, seq: int | None = None, name: str | None = None
    ) -> SessionMeta:
        source, target = await self.store.meta(session), SessionKey(session.tenant, secrets.token_hex(16))
        at = source.seq if seq is None else seq
        if at > source.seq:
            raise no_such_seq(at, source.seq)
        return await fork(self.store, source, target, seq=at, name=name, nonce=NONCE)

    async def verify_session(self, session: SessionKey) -> Verification:
        meta = await self.store.meta(session)
        await self._pause()
        return Verification(meta.seq, meta.position, meta.head.sha256, "1" * 64, self.restored_sha256, 0)

    async def diff_session(self, session: SessionKey, *, first: int, last: int | None) -> Difference:
        head = (await self.store.meta(session)).seq
        if first > head or (last or 0) > head:
            raise no_such_seq(max(first, last or 0), head)
        await self._pause()
        change = LevelChange("phi", 3, 2.0, None, 1.5, None)
        return Difference(first, head if last is None else last, 0, head, (change,))

    async def session_loss(self, session: SessionKey, *, tokens: int) -> SessionLoss:
        head = (await self.store.meta(session)).seq
        await self._pause()
        return SessionLoss(2, head, tokens, 1.5, None)

    async def _pause(self) -> None:
        if self.pause_at is not None:
            try:
                self.paused.set()
                await self.resume.wait()
            except asyncio.CancelledError:
                self.closed.set()
                raise

    async def export_session(self, session: SessionKey) -> AsyncGenerator[bytes]:
        async for piece in export_session(self.store, session):
            yield piece
            if self.export_paused is not None:
                self.paused.set()
                await self.export_paused.wait()
            if self.export_failure is not None:
                raise self.export_failure

    async def open_export(self, data: Buffer) -> Importable:
        opened = Opened(self.store.keys, data, part_names=["head"], max_part_bytes=1024, block=4)
        return Importable(opened, max((record.last_seq for record in opened.records()), default=0))

    async def import_session(self, tenant: str, found: Importable) -> SessionMeta:
        async def records() -> AsyncIterator[JournalRecord]:
            for record in found.opened.records():
                yield record
                if self.pause_at is not None:
                    self.paused.set()
                    await self.resume.wait()

        preface = found.opened.preface
        plan = Blueprint(preface.model, preface.name, records(), None)
        return await build(self.store, SessionKey(tenant, secrets.token_hex(16)), plan, nonce=NONCE)

    async def levels(self, session: SessionKey) -> list[LevelStatus]:
        tokens = (await self.store.meta(session)).position
        return [
            LevelStatus("phi", 1, tokens, tokens, 1, 0.5, 1024),
            LevelStatus("slow", None, tokens, 0, 0, 0.0, 4096),
        ]

    async def events(self, session: SessionKey, *, after: int, limit: int) -> tuple[list[JournalRecord], int]:
        records = await self.store.records(session, after=after, limit=limit)
        return records, (await self.store.meta(session)).seq

    async def path(self, session: SessionKey, *, after: int) -> AsyncGenerator[JournalRecord]:
        meta = await self.store.meta(session)
        async for record in runs_between(self.store, session, meta.path, after=after, head=meta.seq):
            yield record

    async def learned(self, session: SessionKey, idempotency_key: str) -> tuple[int, int] | None:
        return await self.store.learned(session, idempotency_key)

    async def put_document(self, session: SessionKey, name: str, data: bytes | None) -> None:
        await self.store.put_document(session, name, data)

    async def document_names(self, session: SessionKey) -> Sequence[str]:
        return await self.store.document_names(session)

    async def documents(self, session: SessionKey, names: Sequence[str]) -> Mapping[str, bytes]:
        return await self.store.documents(session, names)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        done = False
        try:
            turn = await self._read_prompt(request)
            if request.sampling.prompt_logprobs is not None and request.scored is not None:
                prompt = [token for part in request.prompt for token in part.tokens]
                rest = [scored(token, request.sampling.prompt_logprobs) for token in prompt[1:]]
                request.scored((TokenLogprob(prompt[0], None, ()), *rest))
            answer = self.answers.get(request.sampling.seed or 0, self.answer)
            for index, token in enumerate(answer[: request.sampling.max_tokens]):
                await asyncio.sleep(0)  # a real engine leaves the loop to others between tokens
                if index == self.pause_at:
                    self.paused.set()
                    await self.resume.wait()
                if self.failure is not None and index == self.failure[0]:
                    raise self.failure[1]
                ended = request.stop_check is not None and request.stop_check(token)
                ended |= token in request.sampling.stop_token_ids and not request.sampling.ignore_eos
                seq = await self._commit(request, turn, token, index)
                full = index + 1 == request.sampling.max_tokens
                done = ended or full
                if done and request.finished is not None:
                    read = sum(len(part.tokens) for part in request.prompt) + index + 1
                    frozen = await self._frozen(request.session)
                    figures = TurnFigures(seq, read, {"phi": read}, {"phi": 0.5}, frozen=frozen)
                    request.finished(figures)
                reason: FinishReason | None = "stop" if ended else "length" if full else None
                top = request.sampling.logprobs
                yield TokenEvent(token, index, seq, reason, None if top is None else scored(token, top))
                if done:
                    return
        finally:
            if not done:
                self.closed.set()

    async def _read_prompt(self, request: GenerationRequest) -> TurnKey | None:
        if request.session is None:
            return None
        head = (await self.store.meta(request.session)).seq
        turn = TurnKey(request.idempotency_key, head + 1) if request.idempotency_key else None
        records, seq = [], head
        for part in request.prompt:
            records.append(JournalRecord(seq + 1, "run", part.origin, part.tokens, learn=request.learn))
            seq += len(part.tokens)
        name = request_name(request.idempotency_key or request.fingerprint or request.request_id)
        records = [replace(record, request=name) for record in records]
        records[-1] = replace(records[-1], transcript=request.transcript)
        await self._append(request.session, records, turn)
        return turn

    async def _commit(
        self, request: GenerationRequest, turn: TurnKey | None, token: int, index: int
    ) -> int | None:
        if request.session is None:
            return None
        head = (await self.store.meta(request.session)).seq
        transcript = request.answered(index + 1) if request.answered else None
        name = request_name(request.idempotency_key or request.fingerprint or request.request_id)
        record = JournalRecord(
            head + 1,
            "step",
            "model",
            (token,),
            request=name,
            transcript=transcript,
            learn=request.learn,
        )
        return await self._append(request.session, [record], turn)

    async def _append(
        self, session: SessionKey, records: Sequence[JournalRecord], turn: TurnKey | None = None
    ) -> int:
        fence, meta = await self.store.acquire(session, nonce=NONCE, ttl_s=60)
        head = await self.store.append(
            session, fence, expected=meta.head, records=records, idempotency_key=turn
        )
        return head.seq

    async def verify_slow_weights(self) -> bool:
        return self.slow_weights_ok

    def stats(self) -> EngineStats:
        return EngineStats(running=1, waiting=2, slots=8, slots_used=3, resident_active=1, resident_idle=2)


def scored(token: int, top: int) -> TokenLogprob:
    """An even id is what the model likes best, an odd one comes after id 0."""
    best = -0.25 if token % 2 == 0 else -1.5
    first = (token, best) if token % 2 == 0 else (0, -0.5)
    return TokenLogprob(token, best, (first, (7, -2.0), (8, -3.0))[:top])


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    """No key yet: everybody on this machine is let in."""
    return KeyFile(tmp_path / "keys")


@pytest.fixture
def runtime(engine: ScriptedEngine, keys: KeyFile, clock: Clock, request: pytest.FixtureRequest) -> Runtime:
    """Small limits; `@pytest.mark.settings(name=value)` sets others."""
    marker = request.node.get_closest_marker("settings")
    small = {"port": 0, "max_body_bytes": 65536, "max_prompt_tokens": 20000, "max_output_tokens": 100}
    metrics = Metrics(
        model_name="hope-test",
        levels={"phi": 1},
        window_tokens=64,
        state_bytes=1024,
        slow_weights_sha256=SHA256,
    )
    metrics.watch(engine.stats)
    return Runtime(
        config=ServerConfig.load({**small, **(marker.kwargs if marker else {})}),
        engine=engine,
        tokenizer=ByteTokenizer(),
        chat_format=NativeFormat(ByteTokenizer()),
        metrics=metrics,
        model_name="hope-test",
        slow_weights_sha256=SHA256,
        created=1_700_000_000,
        check_store=engine.store.check,
        gate=Gate(keys),
        accounts=Accounts(QuotaFile(keys.directory), clock=clock),
        state_bytes=1024,
        grammars=Grammars(ByteTokenizer(), frozenset({ByteTokenizer.eos_id, ByteTokenizer.end_id})),
    )


_apps: list[FastAPI] = []


@pytest.fixture
def app(runtime: Runtime) -> FastAPI:
    """One app for all tests (building its routes takes most of a test's time), a runtime for each."""
    if not _apps:
        _apps.append(create_app(runtime))
    _apps[0].state.runtime = runtime
    return _apps[0]


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the app without a socket."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
async def port(app: FastAPI, runtime: Runtime) -> AsyncIterator[int]:
    """The port of a real server over the app."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(runtime.config, app)
    runtime.metrics.watch_connections(server.connections)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.answering.wait()
    yield listener.getsockname()[1]
    server.should_exit = True
    await serving


@pytest.fixture
async def session(http: httpx.AsyncClient) -> str:
    """A session of the tenant that needs no key."""
    return str((await http.post("/v1/sessions")).json()["id"])


@pytest.fixture
async def client(port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own, over a socket."""
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        yield client
