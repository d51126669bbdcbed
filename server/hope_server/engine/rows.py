"""Where every session's row is: in a slot, or, after it had to leave one, in the host's memory."""

from collections.abc import Iterator
from dataclasses import replace

from hope_model.state import State
from hope_model.streaks import Frozen
from hope_server.engine.host_tier import HostTier, TierStats
from hope_server.engine.jobs import Row
from hope_server.engine.runner import Parked, Runner
from hope_server.engine.slots import Seat, SlotTable


class Rows:
    """Rows in slots, by session; iterating gives those sessions. Who gets a slot is the slot table's
    business.

    Args:
        runner: owns the rows' tensors.
        slots: which session sits where.
        host_bytes: of rows in the host's memory; 0 keeps none.
    """

    def __init__(self, runner: Runner, slots: SlotTable, host_bytes: int) -> None:
        self._runner, self._slots = runner, slots
        self._host: HostTier[tuple[Row, Parked]] = HostTier(host_bytes)
        self._rows: dict[str, Row] = {}

    def __getitem__(self, session: str) -> Row:
        return self._rows[session]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def get(self, session: str) -> Row | None:
        """None for a session without a row in a slot."""
        return self._rows.get(session)

    def seat(self, session: str, seat: Seat) -> Row | None:
        """The session has got ``seat``: the row that it had, also if it had left its slot; None if it begins
        at the initial one.

        A row that comes back names, as one that stayed, the journal that it stands at, so one that another
        worker has overtaken is noticed.
        """
        if seat.evicted is not None:
            self._park(seat.evicted, self._rows.pop(seat.evicted))
        if seat.resident or self._unpark(session, seat.slot):
            return self._rows[session]
        self._runner.clear(seat.slot)
        self._rows[session] = Row(seat.slot, self._runner.counts(seat.slot))
        return None

    def place(self, session: str, state: State | None, position: int) -> None:
        """The session's row becomes ``state`` (None: the initial one), which has read ``position`` tokens."""
        slot = self._rows[session].slot
        if state is None:
            self._runner.clear(slot)
        else:
            self._runner.load(slot, state)
        self._rows[session] = Row(slot, self._runner.counts(slot), position)

    def empty(self, session: str) -> None:
        """The session keeps its slot, and nothing of its row."""
        slot = self._rows[session].slot
        self._runner.clear(slot)
        self._rows[session] = Row(slot, self._runner.counts(slot), fit=False)

    def forget(self, session: str) -> None:
        """Whatever its slot holds is nobody's any more."""
        self._rows.pop(session, None)

    def drop(self, session: str) -> None:
        """Forget a row that is kept, wherever, while its session does nothing."""
        self._host.drop(session)
        if self._slots.drop(session):
            del self._rows[session]

    @property
    def frozen(self) -> int:
        """Rows in slots that learn no more."""
        return sum(row.counts.frozen is not Frozen.NO for row in self._rows.values())

    @property
    def host(self) -> TierStats:
        """Of the host's memory."""
        return self._host.stats

    def check_integrity(self) -> None:
        """Slots and rows agree, nobody has two rows, and every row's own counter says what was read."""
        self._host.check_integrity()
        for session, row in self._rows.items():
            assert self._slots.slot(session) == row.slot, f"{session}: its row is not in its slot"
            assert session not in self._host, f"{session}: its row is in the host's memory too"
            assert self._runner.counts(row.slot).position == row.position, f"{session}: the state lost count"

    def _park(self, session: str, row: Row) -> None:
        """An idle row loses its slot: into the host's memory, where that is allowed."""
        if not self._host.max_bytes:
            return
        parked = self._runner.park(row.slot)
        if parked is not None:
            self._host.put(session, (row, parked), parked.bytes)

    def _unpark(self, session: str, slot: int) -> bool:
        found = self._host.take(session)
        if found is None:
            return False
        row, parked = found
        self._runner.unpark(slot, parked)
        self._rows[session] = replace(row, slot=slot)
        return True
