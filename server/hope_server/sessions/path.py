"""Which tokens of its journal a session's state has read: resets and rollbacks leave some behind."""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_SPANS = 1000
"""Each rollback may add one span; a session that rolls back more often has to be forked."""

Span = tuple[int, int]
"""A first and a last sequence number."""


@dataclass(frozen=True, slots=True)
class Path:
    """The ``closed`` spans in order, then everything after ``start_seq``, the last reset or rollback.

    The path up to a sequence number follows from the journal up to there, so the state at a number that two
    paths share is the same state.
    """

    start_seq: int = 0
    closed: tuple[Span, ...] = ()

    @property
    def closed_tokens(self) -> int:
        return sum(last - first + 1 for first, last in self.closed)

    @property
    def base_seq(self) -> int:
        """What to subtract from a number after ``start_seq`` to get a position."""
        return self.start_seq - self.closed_tokens

    def holds(self, seq: int) -> bool:
        """Whether the state has stood after token ``seq``; the head is not looked at."""
        return seq > self.start_seq or any(first <= seq <= last for first, last in self.closed)

    def position(self, seq: int) -> int:
        """Tokens that the state had read after token ``seq``, which the path holds."""
        return sum(min(last, seq) - first + 1 for first, last in self._spans(seq))

    def seq(self, position: int) -> int:
        """The number of the token at which the state had read ``position`` tokens, at least one."""
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
