"""What a journal says of its past: the path after a record, and how a session stood at an earlier number."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from hope_server.errors import InvalidRequest
from hope_server.sessions.key import SessionKey
from hope_server.sessions.path import MAX_SPANS, Freeze, Path
from hope_server.sessions.records import corrupt
from hope_server.sessions.refusals import no_such_seq
from hope_server.sessions.session import NO_TRANSCRIPT, JournalRecord, Point, Transcript
from hope_server.sessions.store import SessionStore, journal

T = TypeVar("T")


class History:
    """Reads a journal record by record; knows how the session stood at every number so far."""

    def __init__(self) -> None:
        self._paths: list[tuple[int, Path]] = [(0, Path())]
        self._transcripts: list[tuple[int, Transcript]] = [(0, NO_TRANSCRIPT)]

    def read(self, record: JournalRecord) -> None:
        """The next record; raises ``ValueError`` for a rollback to a number that is not before it, and for a
        freeze of what the path does not hold.
        """
        if record.kind in ("reset", "rollback"):
            if not 0 <= record.target_seq < record.first_seq:
                raise ValueError(f"a rollback at {record.first_seq} cannot lead to {record.target_seq}")
            path = path_after(record, self.at(record.target_seq).path)
            self._paths.append((record.last_seq, path))
        if record.kind == "freeze":
            self._paths.append((record.last_seq, frozen_path(record, self._paths[-1][1])))
        transcript = last_transcript([record])
        if transcript is not None:
            self._transcripts.append((record.last_seq, transcript))

    def at(self, seq: int) -> Point:
        """The session as it stood after ``seq``, which has been read."""
        return Point(seq, _last(self._paths, seq), _last(self._transcripts, seq))


async def point_at(store: SessionStore, session: SessionKey, seq: int) -> Point:
    """The session as it stood when ``seq`` was its head; 0 is the empty session.

    Raises ``InvalidRequest`` for a number that the journal does not have, else as ``history_upto`` does.
    """
    head = (await store.meta(session)).seq
    if not 0 <= seq <= head:
        raise no_such_seq(seq, head)
    return (await history_upto(store, session, seq)).at(seq)


async def history_upto(store: SessionStore, session: SessionKey, seq: int) -> History:
    """Reads the whole journal up to ``seq``, which it has. Raises ``SessionCorrupted`` for a damaged one."""
    history = History()
    async for record in journal(store, session, after=0, head=seq):
        try:
            history.read(record)
        except ValueError as error:
            raise corrupt(session, str(error)) from error
    return history


def path_after(record: JournalRecord, target: Path) -> Path:
    """The path once a reset or a rollback is read; ``target``: the path at the point that it leads to."""
    if record.kind == "reset":
        return Path(record.last_seq)
    return Path(record.last_seq, target.upto(record.target_seq), target.freeze)


def frozen_path(record: JournalRecord, path: Path) -> Path:
    """The path once a freeze is read: all of ``path``, of which the tokens after its target were not learned.

    Raises ``ValueError`` for a path that is frozen, or does not hold the target.
    """
    good, seq = record.target_seq, record.first_seq
    if path.freeze is not None:
        raise ValueError(f"learning ended at {path.freeze.seq}, it cannot end again at {seq}")
    if not good < seq or not (good == path.seq(0) or path.holds(good)):
        raise ValueError(f"a freeze at {seq} cannot keep what was learned up to {good}")
    return Path(seq, path.upto(seq - 1), Freeze(good, seq))


def part_of(record: JournalRecord, first: int, last: int) -> JournalRecord:
    """The part of ``record`` from ``first`` to ``last``: a run that is cut is continued as a run.

    A record that is cut at its end is not read whole, so it has no transcript.
    """
    start, end = max(first, record.first_seq), min(last, record.last_seq)
    if (start, end) == (record.first_seq, record.last_seq):
        return record
    return replace(
        record,
        first_seq=start,
        tokens=record.tokens[start - record.first_seq : end + 1 - record.first_seq],
        transcript=record.transcript if end == record.last_seq else None,
    )


def reset_path(records: Sequence[JournalRecord]) -> Path | None:
    """The path after ``records`` if there is a reset among them."""
    resets = [record.last_seq for record in records if record.kind == "reset"]
    return Path(resets[-1]) if resets else None


def last_transcript(records: Sequence[JournalRecord]) -> Transcript | None:
    """The transcript after ``records``, None if they do not say."""
    for record in reversed(records):
        if record.transcript is not None:
            return record.transcript
        if record.kind == "reset":
            return NO_TRANSCRIPT
    return None


def rollback_record(expected_seq: int, to: Point, request: str) -> tuple[JournalRecord, Path]:
    """The record after ``expected_seq`` that leads back to ``to``, and the path from there on.

    Raises ``InvalidRequest`` if the session has rolled back too often.
    """
    record = JournalRecord(
        expected_seq + 1,
        "rollback",
        "system",
        (),
        target_seq=to.seq,
        request=request,
        transcript=to.transcript,
    )
    path = path_after(record, to.path)
    if path.overfull:
        raise InvalidRequest(f"a session keeps at most {MAX_SPANS} rollbacks: fork it to go on", param="seq")
    return record, path


def freeze_record(expected_seq: int, path: Path, good_seq: int, request: str) -> tuple[JournalRecord, Path]:
    """The record after ``expected_seq`` that ends the learning of ``path``, and the path from there on.

    Raises ``ValueError`` as :func:`frozen_path` does.
    """
    record = JournalRecord(expected_seq + 1, "freeze", "system", (), target_seq=good_seq, request=request)
    return record, frozen_path(record, path)


def _last(changes: Sequence[tuple[int, T]], seq: int) -> T:
    """What the last change at or before ``seq`` led to."""
    return changes[bisect_right(changes, seq, key=lambda change: change[0]) - 1][1]
