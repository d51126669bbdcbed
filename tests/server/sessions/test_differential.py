"""The memory twin and Redis give the same answers, and the same errors, to the same calls."""

import secrets
from collections.abc import Awaitable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.sessions.writing import Writer

from hope_server.errors import HopeError
from hope_server.sessions.history import point_at
from hope_server.sessions.key import SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.sessions.session import (
    Fence,
    Head,
    JournalRecord,
    SessionMeta,
    Transcript,
    TurnKey,
)
from hope_server.sessions.store import SessionStore

Operation = tuple[str, int, int]
NAMES = (
    "append",
    "append",
    "append",
    "keyed",
    "reset",
    "rollback",
    "freeze",
    "records",
    "put",
    "put",
    "get",
    "learned",
)
RARE = ("rename", "delete", "stranger", "point", "quarantine")
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(NAMES * 2 + RARE), st.integers(-1, 2), st.integers(0, 6)), max_size=25
)


def _comparable(found: object) -> object:
    """Without hashes, which differ by the seals' nonces, and times."""
    if isinstance(found, SessionMeta):
        return replace(found, created_at=0.0, head=Head(found.seq, ""))
    return found.seq if isinstance(found, Head) else found


async def _outcome(call: Awaitable[object]) -> object:
    try:
        return _comparable(await call)
    except HopeError as error:
        return error.code, error.message


async def _call(writer: Writer, operation: Operation) -> object:
    name, shift, number = operation
    at = max(0, writer.head.seq + (shift if number == 0 else 0))
    tokens = tuple(range(number + 1))
    run = JournalRecord(at + 1, "run", "user", tokens)
    if name in ("append", "keyed", "reset") and at != writer.head.seq:
        head, writer.head = writer.head, Head(at, "ab" * 32)
        try:
            return await writer.append(run)
        finally:
            writer.head = head
    match name:
        case "append":
            return await writer.append(
                replace(run, transcript=Transcript(number, "aa", "bb") if number % 2 else None)
            )
        case "keyed":
            return await writer.append(run, key=TurnKey(f"k{number}", at + 1))
        case "reset":
            after = replace(run, first_seq=at + 2)
            return await writer.append(JournalRecord(at + 1, "reset", "user", ()), after)
        case "rollback":
            return await writer.rollback(at * number // 6)
        case "freeze":
            return await _freeze(writer, at, number)
        case "records":
            return await writer.records(after=at // (number + 1), limit=number)
        case "put":
            parts = {"fast": b"%d" % at, "slow": b"slow", "level": b"%d" % (number // 3)}
            await writer.snapshot(at, **parts)
        case "get":
            return await writer.found(None if number == 0 else at - number)
        case "learned":
            return await writer.store.learned(writer.session, f"k{number}")
        case "point":
            return await point_at(writer.store, writer.session, at * number // 6)
        case "stranger":
            stranger = Writer(writer.store, writer.session, Fence(1, "f" * 32), writer.head)
            return await stranger.read(*tokens)
        case "rename":
            await writer.store.rename(writer.session, f"name {number}")
        case "quarantine" if number == 1:
            await writer.store.quarantine(writer.session, writer.fence)
        case "delete" if number == 1:
            await writer.delete()
    return await writer.meta()


async def _freeze(writer: Writer, at: int, number: int) -> object:
    """Of the path as it is, or (number 6) as another caller takes it to be: one that still learns."""
    found = (await writer.meta()).path
    path = replace(found, freeze=None) if number == 6 else found
    good = path.seq(at * number // 6) if path.freeze is None else 0
    try:
        writer.head = await writer.store.freeze(
            writer.session, writer.fence, expected=writer.head, path=path, good_seq=good
        )
    except ValueError as error:
        return str(error)
    return writer.head


async def _writer(store: SessionStore, session: SessionKey) -> Writer:
    return await Writer.create(store, session)


@settings(max_examples=60)
@given(OPERATIONS)
async def test_twins_agree(redis_store: SessionStore, operations: "list[Operation]") -> None:
    session = SessionKey("tenant", secrets.token_hex(16))
    writers = [await _writer(store, session) for store in (MemoryStore(), redis_store)]
    for operation in operations:
        mine, theirs = [await _outcome(_call(writer, operation)) for writer in writers]
        assert mine == theirs, operation
        metas = [await _outcome(writer.meta()) for writer in writers]
        assert metas[0] == metas[1]
