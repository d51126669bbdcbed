"""Which session sits in which slot. Pure policy: no torch, no redis, no time."""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seat:
    """A pinned slot. ``resident``: the session's row is still there. ``evicted``: whose row had to go."""

    slot: int
    resident: bool
    evicted: str | None = None


class SlotTable:
    """Slots are free, pinned by a session at work, or idle: unpinned, with the row kept for the next turn.

    An idle row is clean (everything it holds is in the journal), so it may be taken at any time; the least
    recently used one goes first.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = list(reversed(range(slots)))
        self._pinned: dict[str, int] = {}
        self._idle: OrderedDict[str, int] = OrderedDict()

    def pin(self, session: str) -> Seat | None:
        """Seat ``session``, which is not pinned; None if every slot is pinned."""
        assert session not in self._pinned, f"{session} is pinned already"
        if session in self._idle:
            seat = Seat(self._idle.pop(session), resident=True)
        elif self._free:
            seat = Seat(self._free.pop(), resident=False)
        elif self._idle:
            evicted, slot = self._idle.popitem(last=False)
            seat = Seat(slot, resident=False, evicted=evicted)
        else:
            return None
        self._pinned[session] = seat.slot
        return seat

    def unpin(self, session: str, *, keep: bool) -> None:
        """End the work of a pinned session; its row stays as idle with ``keep``, else the slot is free."""
        slot = self._pinned.pop(session)
        if keep:
            self._idle[session] = slot
        else:
            self._free.append(slot)

    def drop(self, session: str) -> bool:
        """Forget an idle row; False if the session has none."""
        slot = self._idle.pop(session, None)
        if slot is None:
            return False
        self._free.append(slot)
        return True

    def slot(self, session: str) -> int | None:
        """The slot that holds the session's row, pinned or idle."""
        return self._pinned.get(session, self._idle.get(session))

    @property
    def pinned(self) -> int:
        return len(self._pinned)

    @property
    def idle(self) -> int:
        return len(self._idle)

    def check_integrity(self) -> None:
        """Every slot is in exactly one place and no session holds two."""
        held = [*self._free, *self._pinned.values(), *self._idle.values()]
        assert sorted(held) == list(range(self.slots)), f"slots lost or doubled: {sorted(held)}"
        assert not self._pinned.keys() & self._idle.keys(), "a session is both pinned and idle"
