"""Which tokens of its journal a session's state has read: resets and rollbacks leave some behind."""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_SPANS = 1000
"""Each rollback may add one span; a session that rolls back more often has to be forked."""

Span = tuple[int, int]
"""A first and a last sequence number."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """The end of a session's learning: ``good_seq`` is the last number that was learned, and ``seq`` that of
    the record that says so. Tokens between the two were read twice, the second time without learning.
    """

    good_seq: int
    seq: int


@dataclass(frozen=True, slots=True)
class Path:
    """The ``closed`` spans in order, then everything after ``start_seq``, the last reset, rollback or freeze.

    The path up to a sequence number follows from the journal up to there, so the state at a number that two
    paths share is the same state; for tokens that a freeze read anew, it is so only of those after it.
    """

    start_seq: int = 0
    closed: tuple[Span, ...] = ()
    freeze: Freeze | None = None

    @property
    def closed_tokens(self) -> int:
        return sum(last - first + 1 for first, last in self.closed)

    @property
    def base_seq(self) -> int:
        """What to subtract from a number after ``start_seq`` to get a position."""
        return self.start_seq - self.closed_tokens

    @property
    def overfull(self) -> bool:
        """Whether it was rolled back too often; a freeze closes a span as well, which nobody asked for."""
        return len(self.closed) > MAX_SPANS + (self.freeze is not None)

    def holds(self, seq: int) -> bool:
        """Whether the state has stood after token ``seq``; the head is not looked at."""
        return seq > self.start_seq or any(first <= seq <= last for first, last in self.closed)

    def keeps(self, seq: int) -> bool:
        """Whether a snapshot after token ``seq`` is of this path; what a freeze read anew has none."""
        freeze = self.freeze
        return self.holds(seq) and (freeze is None or not freeze.good_seq < seq < freeze.seq)

    def learns_at(self, seq: int) -> bool:
        """Whether token ``seq``, which the path holds, was learned."""
        return self.freeze is None or seq <= self.freeze.good_seq

    @property
    def frozen_position(self) -> int | None:
        """Tokens that were learned before learning ended; None while the session learns."""
        return None if self.freeze is None else self.position(self.freeze.good_seq)

    def position(self, seq: int) -> int:
        """Tokens that the state had read after token ``seq``, which the path holds."""
        return sum(min(last, seq) - first + 1 for first, last in self._spans(seq))

    def seq(self, position: int) -> int:
        """The number of the token at which the state had read ``position`` tokens; 0: the one before all."""
        for first, last in self.closed:
            if position <= last - first + 1:
                return first + position - 1
            position -= last - first + 1
        return self.start_seq + position

    def after(self, seq: int, head: int) -> list[Span]:
        """The spans that are read after token ``seq`` up to ``head``."""
        return [(max(first, seq + 1), last) for first, last in self._spans(head) if last > seq]

    def upto(self, seq: int) -> tuple[Span, ...]:
        """The spans up to token ``seq``, which the path holds; what a rollback to there closes."""
        return tuple((first, min(last, seq)) for first, last in self._spans(seq))

    def _spans(self, head: int) -> Iterator[Span]:
        """All spans that begin at or before ``head``, the open one included."""
        for span in (*self.closed, (self.start_seq + 1, head)):
            if span[0] <= min(span[1], head):
                yield span


WHOLE = Path()
"""The path of a session that was never reset or rolled back."""
