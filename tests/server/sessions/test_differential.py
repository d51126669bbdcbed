"""The memory twin and Redis give the same answers, and the same errors, to the same calls."""

import secrets
from collections.abc import Awaitable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from hope_server.errors import HopeError
from hope_server.sessions.key import SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.sessions.store import JournalRecord, SessionMeta, SessionStore, Snapshot, Transcript, TurnKey

Operation = tuple[str, int, int]
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "append",
                "append",
                "append",
                "keyed",
                "reset",
                "records",
                "put",
                "put",
                "get",
                "learned",
                "delete",
            ]
        ),
        st.integers(-1, 2),
        st.integers(0, 6),
    ),
    max_size=25,
)


async def _outcome(call: Awaitable[object]) -> object:
    try:
        found = await call
    except HopeError as error:
        return error.code, error.message
    if isinstance(found, SessionMeta):
        return replace(found, created_at=0.0)
    if isinstance(found, Snapshot):
        return found.seq, dict(found.parts)
    return found


def _call(store: SessionStore, session: SessionKey, head: int, operation: Operation) -> Awaitable[object]:
    name, shift, number = operation
    at = max(0, head + (shift if number == 0 else 0))
    tokens = tuple(range(number + 1))
    match name:
        case "append":
            told = Transcript(number, "aa", "bb") if number % 2 else None
            records = [JournalRecord(at + 1, "run", "user", tokens)]
            return store.append(session, expected_seq=at, records=records, transcript=told)
        case "keyed":
            step = JournalRecord(at + 1, "step", "model", tokens)
            key = TurnKey(f"k{number}", at + 1)
            return store.append(session, expected_seq=at, records=[step], idempotency_key=key)
        case "reset":
            records = [
                JournalRecord(at + 1, "reset", "user", ()),
                JournalRecord(at + 2, "run", "user", tokens),
            ]
            return store.append(session, expected_seq=at, records=records)
        case "records":
            return store.records(session, after=at // (number + 1), limit=number)
        case "put":
            parts = {"fast": b"%d" % at, "slow": b"slow", "level": b"%d" % (number // 3)}
            return store.put_snapshot(session, seq=at, parts=parts)
        case "get":
            return store.get_snapshot(session, at_most_seq=None if number == 0 else at - number)
        case "learned":
            return store.learned(session, f"k{number}")
    return store.delete(session) if number == 1 else store.meta(session)


@settings(max_examples=60)
@given(OPERATIONS)
async def test_twins_agree(redis_store: SessionStore, operations: "list[Operation]") -> None:
    session, memory = SessionKey("tenant", secrets.token_hex(16)), MemoryStore()
    for store in (memory, redis_store):
        await store.create(session, model="m", name=None)
    head = 0
    for operation in operations:
        mine, theirs = [
            await _outcome(_call(store, session, head, operation)) for store in (memory, redis_store)
        ]
        assert mine == theirs, operation
        metas = [await _outcome(store.meta(session)) for store in (memory, redis_store)]
        assert metas[0] == metas[1]
        head = metas[0].seq if isinstance(metas[0], SessionMeta) else head
