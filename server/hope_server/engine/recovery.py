"""What becomes of a row that cannot go on: its state is made again from the journal, or learning ends."""

from dataclasses import replace

from hope_server.engine.events import Halted
from hope_server.errors import SessionCorrupted
from hope_server.sessions.history import freeze_record
from hope_server.sessions.session import Fence, SessionMeta
from hope_server.sessions.store import SessionStore


class Recovery:
    """Of one turn. Refused writes end learning at once. A result that is not finite may be a row's that was
    damaged, so the state is made again; if the same comes of it, learning ends before what led there.
    """

    def __init__(self) -> None:
        self._reloaded = False

    def ends_learning(self, halted: Halted, *, frozen: bool) -> bool:
        """Whether learning is to end; else the state is only to be made again.

        Raises:
            SessionCorrupted: neither helps.
        """
        if halted.reason == "output" and not self._reloaded:
            self._reloaded = True
            return False
        if frozen:
            raise SessionCorrupted("non-finite values come of the session's state, also without learning")
        return True


async def end_learning(
    store: SessionStore, meta: SessionMeta, fence: Fence, halted: Halted, request: str
) -> SessionMeta:
    """Say in the journal after ``meta``'s head that nothing is learned after the last good boundary; the
    session as it is then. ``request``: as in a ``JournalRecord``.
    """
    good_seq = meta.path.seq(halted.good)
    _, path = freeze_record(meta.seq, meta.path, good_seq, request)
    head = await store.freeze(
        meta.key, fence, expected=meta.head, path=meta.path, good_seq=good_seq, request=request
    )
    return replace(meta, head=head, path=path)
