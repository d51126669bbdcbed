"""How much learning goes into a step of decoding. Pure policy: no torch, no clock."""

from collections.abc import Mapping
from typing import Protocol


class Backlog(Protocol):
    """``slices`` of work, due before the session has read ``tokens`` more tokens."""

    @property
    def slices(self) -> int: ...
    @property
    def tokens(self) -> int: ...


class LearningPace:
    """Spreads every session's slices evenly over the tokens that it still reads before they are due.

    Sessions that are in step would all be due at once; summing what they owe and paying it off slice by
    slice keeps each step about equally long.
    """

    def __init__(self) -> None:
        self._owed = 0.0

    def choose(self, backlogs: Mapping[str, Backlog], advanced: Mapping[str, int]) -> list[str]:
        """Whose slices to compute in this step, the nearest deadline first.

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
        chosen: list[str] = []
        while self._owed >= 1.0 and order:
            session = order[0]
            chosen.append(session)
            self._owed -= 1.0
            left[session] -= 1
            if not left[session]:
                order.pop(0)
        if not order:
            self._owed = 0.0
        return chosen
