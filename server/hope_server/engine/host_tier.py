"""Rows that had to leave their slot, in the host's memory up to a bound. Pure policy: no torch, no time."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class TierStats:
    """Rows and bytes held now; since the start, rows taken back, asked for in vain, and given up."""

    rows: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0


class HostTier(Generic[T]):
    """Rows by session. The least recently put goes first; one that is larger than all of the bound is not
    kept. Whoever takes a row compares it with the journal, as with one that stayed in its slot.

    Args:
        max_bytes: of all rows together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.stats = TierStats()
        self._rows: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def put(self, session: str, row: T, size: int) -> None:
        """Keep ``row`` of ``size`` bytes, in place of the session's older one."""
        self.drop(session)
        if size > self.max_bytes:
            self.stats.evictions += 1
            return
        while self.stats.bytes + size > self.max_bytes:
            self.stats.evictions += 1
            self.drop(next(iter(self._rows)))
        self._rows[session] = row, size
        self._changed(size)

    def take(self, session: str) -> T | None:
        """The session's row, which is here no more; None without one."""
        found = self._rows.get(session)
        if found is None:
            self.stats.misses += 1
            return None
        self.drop(session)
        self.stats.hits += 1
        return found[0]

    def drop(self, session: str) -> bool:
        """Forget a row; False if the session has none."""
        found = self._rows.pop(session, None)
        if found is None:
            return False
        self._changed(-found[1])
        return True

    def check_integrity(self) -> None:
        """What is counted is what is held, and no more than allowed."""
        held = sum(size for _, size in self._rows.values())
        assert self.stats.bytes == held, f"{self.stats.bytes} bytes counted, {held} held"
        assert self.stats.rows == len(self._rows), f"{self.stats.rows} rows counted, {len(self._rows)} held"
        assert held <= self.max_bytes, f"{held} bytes held, {self.max_bytes} allowed"

    def __contains__(self, session: str) -> bool:
        return session in self._rows

    def _changed(self, size: int) -> None:
        self.stats.bytes += size
        self.stats.rows = len(self._rows)
