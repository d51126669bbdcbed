"""How much learning goes into a step of decoding. Pure policy: no torch, no clock."""

from collections.abc import Mapping, Sequence
from typing import Protocol

TOGETHER = 3
"""Sessions that share a pass. More make it cheaper for each, and the step that it goes into longer."""


class Backlog(Protocol):
    """``slices`` of work, due before the session has read ``tokens`` more tokens."""

    @property
    def slices(self) -> int: ...
    @property
    def tokens(self) -> int: ...


class LearningPace:
    """Spreads every session's slices evenly over the tokens that it still reads before they are due.

    Sessions that are in step would all be due at once; summing what they owe and paying it off in small
    groups keeps each step about equally long.
    """

    def __init__(self) -> None:
        self._owed = 0.0

    def choose(self, backlogs: Mapping[str, Backlog], advanced: Mapping[str, int]) -> list[list[str]]:
        """Who computes a slice in this step: groups that share a pass, one after the other.

        Args:
            backlogs: sessions with work.
            advanced: tokens that sessions have read in this step.
        """
        for session, backlog in backlogs.items():
            tokens = advanced.get(session, 0)
            if tokens:  # of a run that ends at the deadline, its last token works off what is left
                self._owed += backlog.slices * min(1.0, tokens / (backlog.tokens + tokens - 1))
        left = {session: backlog.slices for session, backlog in backlogs.items()}
        # One that stands still is not nearer to its deadline, and does not live on what the others pay.
        order = sorted(filter(backlogs.__contains__, advanced), key=lambda session: backlogs[session].tokens)
        groups: list[list[str]] = []
        credited: set[str] = set()
        while group := self._next(order, left, backlogs, credited):
            groups.append(group)
            self._owed -= len(group)
            for session in group:
                left[session] -= 1
            order = [session for session in order if left[session]]
        if not order:
            self._owed = 0.0
        return groups

    def _next(
        self,
        order: Sequence[str],
        left: Mapping[str, int],
        backlogs: Mapping[str, Backlog],
        credited: set[str],
    ) -> list[str]:
        """Those whose last token this was, whatever is left; else the nearest, once a group is paid for.

        Else, on credit, who may not miss a slice.
        """
        last = [session for session in order if backlogs[session].tokens <= 1]
        if last:
            return last[:TOGETHER]
        if order and self._owed >= len(order[:TOGETHER]):
            return list(order[:TOGETHER])
        late = [session for session in order if left[session] >= backlogs[session].tokens]
        group = [session for session in late if session not in credited][:TOGETHER]
        credited.update(group)
        return group
