"""A session's journal on Redis: append by compare-and-set, read in pages, settle lost replies."""

from collections.abc import Sequence
from typing import Any

from hope_server.errors import AlreadyLearned, SequenceConflict
from hope_server.sessions.key import SessionKey
from hope_server.sessions.records import check_page, decode_record, encode_record
from hope_server.sessions.redis_link import LOST, Link
from hope_server.sessions.redis_meta import journal_key, meta_key, not_found, turns_key
from hope_server.sessions.store import (
    MAX_PAGE_BYTES,
    JournalRecord,
    Transcript,
    TurnKey,
    check_append,
)


class RedisJournal:
    """The journal's part of ``RedisStore``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def append(
        self,
        session: SessionKey,
        expected_seq: int,
        records: Sequence[JournalRecord],
        transcript: Transcript | None,
        turn: TurnKey | None,
    ) -> int:
        head, base = check_append(expected_seq, records, turn)
        if base is not None and transcript is None:
            transcript = Transcript(0, "", "")
        entries = [(record.last_seq, encode_record(session, record)) for record in records]
        args: list[Any] = [expected_seq, head, "" if base is None else base]
        args += _transcript_args(transcript)
        args += ["", ""] if turn is None else [turn.key, turn.first_seq]
        args += [value for entry in entries for value in entry]
        try:
            reply = await self._append(session, args)
        except LOST:
            reply = await self._link.settled(lambda: self._settle(session, args, entries))
        return _new_head(session, expected_seq, reply)

    async def _append(self, session: SessionKey, args: list[Any]) -> list[Any]:
        keys = [meta_key(session), journal_key(session), turns_key(session)]
        return await self._link.function("append", keys, args)

    async def _settle(
        self, session: SessionKey, args: list[Any], entries: list[tuple[int, bytes]]
    ) -> list[Any]:
        """What became of an append whose reply was lost; sent again only if the head never moved."""
        expected, head = args[:2]
        reply = await self._page(session, expected, len(entries) + 1)
        if reply[0] != b"OK":
            return reply
        sent = [value for last_seq, payload in entries for value in (b"%d-0" % last_seq, payload)]
        if int(reply[1]) == head and reply[2:] == sent:
            return [b"OK", head]
        if int(reply[1]) != expected:
            return [b"SEQ", reply[1]]
        again = await self._append(session, args)
        # The lost command can still run after the look at the head, before this one.
        return again if again[0] != b"SEQ" else await self._settle(session, args, entries)

    async def _page(self, session: SessionKey, after: int, limit: int) -> list[Any]:
        keys = [meta_key(session), journal_key(session)]
        return await self._link.function("page", keys, [after, limit, MAX_PAGE_BYTES])

    async def records(self, session: SessionKey, after: int, limit: int) -> list[JournalRecord]:
        reply = await self._link.settled(lambda: self._page(session, after, limit))
        if reply[0] != b"OK":
            raise not_found(session)
        records = [decode_record(session, payload) for payload in reply[3::2]]
        if limit > 0:
            check_page(session, records, after=after, head=int(reply[1]))
        return records

    async def learned(self, session: SessionKey, turn_key: str) -> tuple[int, int] | None:
        asked = [("HGET", turns_key(session), f"t:{turn_key}"), ("EXISTS", meta_key(session))]
        found, exists = await self._link.settled(lambda: self._link.send_all(asked))
        if not exists:
            raise not_found(session)
        if found is None:
            return None
        first, last = found.split()
        return int(first), int(last)


def _transcript_args(transcript: Transcript | None) -> list[Any]:
    if transcript is None:
        return ["", "", ""]
    return [transcript.count, transcript.sha256, transcript.first_message_sha256]


def _new_head(session: SessionKey, expected_seq: int, reply: list[Any]) -> int:
    match reply:
        case [b"OK", head]:
            return int(head)
        case [b"KNOWN", first, last]:
            message = f"this idempotency key was used for tokens {int(first)} to {int(last)}"
            raise AlreadyLearned(message, first_seq=int(first), last_seq=int(last))
        case [b"SEQ", head]:
            raise SequenceConflict(f"expected the session's head at {expected_seq}, found {int(head)}")
    raise not_found(session)
