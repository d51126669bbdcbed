"""A copy that is being filled is nobody's session yet, in every store."""

import secrets
from collections.abc import AsyncIterator

import pytest
from tests.server.sessions.writing import Writer

from hope_server.errors import SessionNotFound
from hope_server.sessions.copying import Blueprint, build
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import JournalRecord
from hope_server.sessions.store import SessionStore


async def is_there(store: SessionStore, session: SessionKey) -> bool:
    """By name and in listings, which must agree."""
    listed = [meta.key for meta in await store.list(session.tenant, after=None, limit=10_000)]
    try:
        await store.meta(session)
    except SessionNotFound:
        assert session not in listed
        return False
    assert session in listed
    return True


async def test_a_copy_is_hidden_until_it_is_whole(store: SessionStore, writer: Writer) -> None:
    target = SessionKey("tenant", secrets.token_hex(16))
    seen: list[bool] = []

    async def records() -> AsyncIterator[JournalRecord]:
        for seq in (1, 2):
            seen.append(await is_there(store, target))
            yield JournalRecord(seq, "run", "user", (seq,))
        yield JournalRecord(3, "rollback", "system", (), target_seq=1)  # what is before it is committed
        seen.append(await is_there(store, target))

    await build(store, target, Blueprint("m", None, records(), None), nonce=secrets.token_hex(16))
    assert seen == [False, False, False]
    assert await is_there(store, target)
    assert (await store.meta(target)).seq == 3


async def test_a_copy_that_fails_was_never_there(store: SessionStore, writer: Writer) -> None:
    target = SessionKey("tenant", secrets.token_hex(16))

    async def records() -> AsyncIterator[JournalRecord]:
        yield JournalRecord(1, "run", "user", (1,))
        raise SessionNotFound("the source is gone")

    with pytest.raises(SessionNotFound, match="source"):
        await build(store, target, Blueprint("m", None, records(), None), nonce=secrets.token_hex(16))
    assert not await is_there(store, target)
