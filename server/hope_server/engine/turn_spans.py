"""What a turn goes through, as parts of its span: admission, load, commit, prefill, decode."""

from contextlib import AbstractContextManager

from hope_server.tracing import NO_SPAN, Span, step


class TurnSpans:
    """The parts of one turn. Prefill and decode follow each other; the rest are blocks."""

    def __init__(self, turn: Span) -> None:
        self._turn = turn
        self._phase = NO_SPAN
        self._answering = False
        self._commits, self._commit_s = 0, 0.0

    def admission(self) -> AbstractContextManager[Span]:
        """The wait for a slot."""
        return step(self._turn, "hope.admission")

    def load(self) -> AbstractContextManager[Span]:
        """The session's lease, and its state, unless that is in the slot."""
        return step(self._turn, "hope.load")

    def commit(self, tokens: int) -> AbstractContextManager[Span]:
        """The prompt goes into the journal."""
        return step(self._turn, "hope.commit", {"hope.tokens": tokens})

    def prefill(self, tokens: int) -> None:
        """The prompt is being read from here on."""
        self._phase = self._turn.child("hope.prefill", {"hope.tokens": tokens})

    def decode(self) -> None:
        """A token was sampled: the first one ends the prompt's reading."""
        if not self._answering:
            self._answering = True
            self._phase.end()
            self._phase = self._turn.child("hope.decode")

    def committed(self, seconds: float) -> None:
        """A commit landed. Those of the answer are counted: a span for each would be too many."""
        if self._answering:
            self._commits += 1
            self._commit_s += seconds

    def end(self, tokens: int, error: str) -> None:
        """The turn is over, after ``tokens`` of an answer."""
        if self._answering:
            figures = {"hope.tokens": tokens, "hope.commits": self._commits}
            self._phase.set({**figures, "hope.commit_seconds": self._commit_s})
        self._phase.end(error)
