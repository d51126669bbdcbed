"""A session's journal on Redis: fenced commits that compare the head, pages whose chain is verified."""

from collections.abc import Sequence
from typing import Any

from hope_server.sessions.history import last_transcript
from hope_server.sessions.key import SessionKey
from hope_server.sessions.path import Path
from hope_server.sessions.records import CHAIN_BYTES, check_page, read_entries, upto_record, write_entries
from hope_server.sessions.redis_link import Link
from hope_server.sessions.redis_meta import (
    check_reply,
    encode_freeze,
    encode_spans,
    fence_args,
    journal_key,
    keys_of,
    meta_key,
    seal_transcript,
    turns_key,
)
from hope_server.sessions.refusals import already_frozen, already_learned, moved_on, not_found
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import (
    GENESIS,
    MAX_PAGE_BYTES,
    Fence,
    Head,
    JournalRecord,
    TurnKey,
)


class RedisJournal:
    """The journal's part of ``RedisStore``."""

    def __init__(self, link: Link, keys: Keyring) -> None:
        self._link, self._keys = link, keys

    async def commit(
        self,
        function: str,
        session: SessionKey,
        fence: Fence,
        expected: Head,
        records: Sequence[JournalRecord],
        turn: TurnKey | None,
        path: Path | None,
    ) -> Head:
        """Append checked ``records`` by ``function``; ``path``: where its path turns to, if it does."""
        entries, head = write_entries(self._keys, session, expected, records)
        args: list[Any] = [*fence_args(fence), expected.seq, expected.sha256, head.seq, head.sha256]
        args += ["", "", ""] if path is None else [path.start_seq, encode_spans(path), encode_freeze(path)]
        transcript = last_transcript(records)
        args.append("" if transcript is None else seal_transcript(self._keys, session, head.seq, transcript))
        args += ["", ""] if turn is None else [" ".join(self._turn_names(session, turn.key)), turn.first_seq]
        args += [value for entry in entries for value in entry]
        # Sent twice it does nothing: the head it leads to is its own.
        reply = await self._link.ask_quickly(function, keys_of(session), args)
        _check_commit(session, expected, reply)
        return head

    async def records(self, session: SessionKey, after: int, limit: int, upto: int) -> list[JournalRecord]:
        keys = [meta_key(session), journal_key(session)]
        reply = await self._link.ask_function("page", keys, [after, limit, MAX_PAGE_BYTES])
        check_reply(session, reply)
        head, before = Head(int(reply[1]), reply[2].decode()), bytes(reply[3])
        entries = [
            (int(entry_id.partition(b"-")[0]), value)
            for entry_id, value in zip(reply[4::2], reply[5::2], strict=True)
        ]
        if len(before) != CHAIN_BYTES:
            before = bytes.fromhex(GENESIS.sha256)
        records = read_entries(self._keys, session, before, upto_record(entries, upto))
        if limit > 0:
            check_page(session, records, after=after, head=head)
        return records

    async def learned(self, session: SessionKey, turn_key: str) -> tuple[int, int] | None:
        fields = [f"t:{name}" for name in self._turn_names(session, turn_key)]
        asked = [("HMGET", turns_key(session), *fields), ("EXISTS", meta_key(session))]
        ranges, exists = await self._link.settled(lambda: self._link.send_all(asked))
        if not exists:
            raise not_found(session)
        found = next((value for value in ranges if value is not None), None)
        if found is None:
            return None
        first, last = found.split()
        return int(first), int(last)

    def _turn_names(self, session: SessionKey, turn_key: str) -> list[str]:
        return self._keys.names(session, "turn", turn_key.encode())


def _check_commit(session: SessionKey, expected: Head, reply: list[Any]) -> None:
    check_reply(session, reply)
    match reply:
        case [b"KNOWN", first, last]:
            raise already_learned(int(first), int(last))
        case [b"FROZEN"]:
            raise already_frozen(session)
        case [b"SEQ", seq]:
            raise moved_on(expected.seq, int(seq))
