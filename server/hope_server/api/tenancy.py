"""The engine as one tenant sees it: its own sessions alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Annotated

from fastapi import Depends, Request

from hope_client.wire import MAX_NAME_CHARS, MAX_PAGE_SESSIONS
from hope_server.api.context import caller_of
from hope_server.api.runtime import Runtime
from hope_server.engine.request import (
    Difference,
    GenerationRequest,
    LevelStatus,
    SessionLoss,
    TokenEvent,
    Verification,
)
from hope_server.errors import Forbidden
from hope_server.logging import name_session
from hope_server.sessions.container import invalid_export
from hope_server.sessions.key import SessionKey
from hope_server.sessions.reading import Buffer
from hope_server.sessions.session import MAX_DOCUMENTS_READ, JournalRecord, SessionMeta, list_cursor
from hope_server.tenants.account import Account
from hope_server.tenants.stored import SESSION_BYTES, Stored, journal_bytes, snapshot_bytes

# A class with a method called list cannot use the built-in in its annotations.
Metas = list[SessionMeta]
Levels = list[LevelStatus]
Records = list[JournalRecord]


class TenantSessions:
    """Every way from a route to a session. Another tenant's session is none: SessionNotFound."""

    def __init__(self, runtime: Runtime, tenant: str, account: Account | None) -> None:
        self._engine = runtime.engine
        self._turns = runtime.turns
        self._transfers = runtime.transfers
        self._state_bytes = runtime.state_bytes
        self._tenant = tenant
        self._account = account

    def key(self, session_id: str) -> SessionKey:
        """The one place where a caller's tenant and what it names become a session.

        Raises SessionNotFound for an id that no session can have.
        """
        key = SessionKey(self._tenant, session_id)
        name_session(key.session)
        return key

    async def create(self, name: str | None) -> SessionMeta:
        """A new session with a random 128-bit id. Raises SessionQuotaExceeded, StorageQuotaExceeded."""
        async with self._room(Stored(1, SESSION_BYTES)):
            return await self._engine.create_session(self._tenant, name)

    async def get(self, session_id: str) -> SessionMeta:
        return await self._engine.get_session(self.key(session_id))

    async def rename(self, session_id: str, name: str) -> SessionMeta:
        return await self._engine.rename_session(self.key(session_id), name)

    async def list(self, *, after: str | None, limit: int) -> Metas:
        """Up to `limit` sessions, oldest first, after the cursor or session id `after`."""
        return await self._engine.list_sessions(self._tenant, after=after, limit=limit)

    async def delete(self, session_id: str) -> None:
        with self.hold(session_id):
            await self._engine.delete_session(self.key(session_id))
        if self._account is not None:
            self._account.forget_count()

    async def reset(self, session_id: str) -> SessionMeta:
        with self.hold(session_id):
            return await self._engine.reset_session(self.key(session_id))

    async def rollback(self, session_id: str, *, seq: int) -> SessionMeta:
        with self.hold(session_id):
            return await self._engine.rollback_session(self.key(session_id), seq=seq)

    async def fork(self, session_id: str, *, seq: int | None, name: str | None) -> SessionMeta:
        """A copy of one's own session, which may be in a turn. Raises as `create` does."""
        source = await self.get(session_id)
        async with self._room(Stored.of([source], self._state_bytes)):
            return await self._engine.fork_session(source.key, seq=seq, name=name)

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """One export or import. Raises TooManyTransfers."""
        with self._transfers.hold(self._tenant):
            yield

    def export(self, session_id: str) -> AsyncGenerator[bytes]:
        """The session as one file, in pieces."""
        return self._engine.export_session(self.key(session_id))

    async def import_(self, data: Buffer) -> SessionMeta:
        """A new session from an exported one. To a quota it is a turn that reads the whole journal: that is
        what its first turn may have to do. Raises as `create` does too, before anything is stored.
        """
        with self._account.turn() if self._account else nullcontext():
            found = await self._engine.open_export(data)
            if len(found.name or "") > MAX_NAME_CHARS:
                raise invalid_export(ValueError(f"its name has more than {MAX_NAME_CHARS} characters"))
            state = snapshot_bytes(self._state_bytes) if found.has_state else 0
            async with self._room(Stored(1, SESSION_BYTES + journal_bytes(found.seq) + state)):
                if self._account is not None:
                    self._account.charge(found.seq)
                return await self._engine.import_session(self._tenant, found)

    async def verify(self, session_id: str) -> Verification:
        """Replays the whole journal: to a quota it is a turn, which reads it twice."""
        meta = await self.get(session_id)
        with self._account.turn() if self._account else nullcontext():
            if self._account is not None:
                self._account.charge(2 * meta.position)
            return await self._engine.verify_session(meta.key)

    async def diff(self, session_id: str, *, first: int, last: int | None) -> Difference:
        """To a quota it is a turn that reads up to both numbers, though snapshots may spare it most."""
        meta = await self.get(session_id)
        with self._account.turn() if self._account else nullcontext():
            if self._account is not None:
                end = meta.seq if last is None else last
                self._account.charge(min(first, meta.seq) + min(end, meta.seq))
            return await self._engine.diff_session(meta.key, first=first, last=last)

    async def loss(self, session_id: str, *, tokens: int) -> SessionLoss:
        """To a quota it is a turn that reads the tokens twice."""
        key = self.key(session_id)
        with self._account.turn() if self._account else nullcontext():
            if self._account is not None:
                self._account.charge(2 * tokens)
            return await self._engine.session_loss(key, tokens=tokens)

    async def levels(self, session_id: str) -> Levels:
        return await self._engine.levels(self.key(session_id))

    async def events(self, session_id: str, *, after: int, limit: int) -> tuple[Records, int]:
        return await self._engine.events(self.key(session_id), after=after, limit=limit)

    def path(self, session_id: str, *, after: int) -> AsyncGenerator[JournalRecord]:
        """What the session's state has read, behind `after`."""
        return self._engine.path(self.key(session_id), after=after)

    async def learned(self, session_id: str, idempotency_key: str) -> tuple[int, int] | None:
        return await self._engine.learned(self.key(session_id), idempotency_key)

    async def put_document(self, session_id: str, name: str, data: bytes | None) -> None:
        """Keep a document beside the session's journal. Raises StorageQuotaExceeded."""
        if self._account is not None and data is not None:
            await self._account.book(Stored(0, len(data)), self._count)
        await self._engine.put_document(self.key(session_id), name, data)

    async def document_names(self, session_id: str) -> Sequence[str]:
        return await self._engine.document_names(self.key(session_id))

    async def documents(self, session_id: str, names: Sequence[str]) -> Mapping[str, bytes]:
        """Those of the names that there are, however many are asked for."""
        found: dict[str, bytes] = {}
        for start in range(0, len(names), MAX_DOCUMENTS_READ):
            page = names[start : start + MAX_DOCUMENTS_READ]
            found |= await self._engine.documents(self.key(session_id), page)
        return found

    def generate(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        """One turn of the session that `request` names by its `key`, or of an ephemeral one."""
        assert request.session is None or request.session.tenant == self._tenant
        return self._engine.generate(request)

    @contextmanager
    def turn(self, session_id: str | None) -> Iterator[None]:
        """One turn a session, and as many as the tenant may. Raises SessionBusy and as Account.turn."""
        with self._account.turn() if self._account else nullcontext(), self.hold(session_id):
            yield

    async def reserve(self, session_id: str | None, *, prompt_tokens: int, max_tokens: int) -> None:
        """Before a turn: charge what it reads, book room for all it may add. Raises StorageQuotaExceeded."""
        if self._account is None:
            return
        if session_id is not None:
            fresh = not (await self.get(session_id)).snapshot_seq
            room = journal_bytes(prompt_tokens + max_tokens) + fresh * snapshot_bytes(self._state_bytes)
            await self._account.book(Stored(0, room), self._count)
        self._account.charge(prompt_tokens)

    def on_token(self) -> None:
        """A token was generated."""
        if self._account is not None:
            self._account.charge(1)

    def turns_at_once(self, most: int) -> int:
        """How many turns one request may run side by side; `most`: those that the server can."""
        return most if self._account is None else min(most, self._account.concurrent_turns)

    @contextmanager
    def hold(self, session_id: str | None) -> Iterator[None]:
        """One turn a session; see SessionTurns."""
        with self._turns.hold(None if session_id is None else self.key(session_id)):
            yield

    def _room(self, more: Stored) -> AbstractAsyncContextManager[None]:
        """Booked before anything is written, and given back if that fails."""
        return self._account.booked(more, self._count) if self._account else nullcontext()

    async def _count(self) -> Stored:
        total, after = Stored(), None
        while page := await self.list(after=after, limit=MAX_PAGE_SESSIONS):
            total += Stored.of(page, self._state_bytes)
            after = list_cursor(page[-1])
        return total


def _of(request: Request) -> TenantSessions:
    runtime: Runtime = request.app.state.runtime
    caller = caller_of(request.scope)
    if caller.tenant is None:
        raise Forbidden("an operator's key opens no sessions: use a tenant's")
    account = runtime.accounts.of(caller.tenant) if caller.metered else None
    return TenantSessions(runtime, caller.tenant, account)


SessionsOf = Annotated[TenantSessions, Depends(_of)]
"""A route's parameter: the sessions of the tenant that calls."""
