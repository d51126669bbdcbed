"""How much learning goes into a step of decoding. Pure policy: no torch, no clock."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

TOGETHER = 3
"""Sessions that share a pass. More make it cheaper for each, and the step that it goes into longer."""
READERS = 4
"""Sessions in a step for each that shares a pass: beside few a step is short, and so must be what it does."""
EARLY = 4
"""Who reads token by token pays as if due after one in so many of the tokens that are left: some of them may
come at once, as the next turn's prompt.
"""


class Backlog(Protocol):
    """``slices`` of work, due before the session has read ``tokens`` more tokens."""

    @property
    def slices(self) -> int: ...
    @property
    def tokens(self) -> int: ...


def together(sessions: int) -> int:
    """How many may share a pass beside a step of so many."""
    return max(1, min(TOGETHER, sessions // READERS))


class LearningPace:
    """Spreads every session's slices over the tokens that it still reads before they are due.

    Sessions that are in step would all be due at once; summing what they owe and paying it off in small
    groups, one a step as long as that is in time, keeps each step about equally long.
    """

    def __init__(self) -> None:
        self._owed = 0.0

    def choose(
        self, backlogs: Mapping[str, Backlog], advanced: Mapping[str, int], *, beside_prompts: bool = False
    ) -> list[list[str]]:
        """Who computes a slice in this step: groups that share a pass, one after the other.

        Args:
            backlogs: sessions with work.
            advanced: tokens that sessions have read in this step.
            beside_prompts: whether the step is a long one already; then only what cannot wait is computed.
        """
        for session, backlog in backlogs.items():
            if session in advanced:
                self._owed += backlog.slices * min(1.0, _share(backlog, advanced[session]))
        left = {session: backlog.slices for session, backlog in backlogs.items()}
        self._owed = min(self._owed, sum(left.values()))
        # One that stands still is not nearer to its deadline, and does not live on what the others pay.
        order = sorted(filter(backlogs.__contains__, advanced), key=lambda session: backlogs[session].tokens)
        size = together(len(advanced))
        needed = _passes_a_step(order, backlogs, advanced, size)
        most = math.ceil(needed) if needed >= 1 else int(not beside_prompts)
        groups: list[list[str]] = []
        credited: set[str] = set()
        while group := self._next(order, left, backlogs, credited, size, may_pay=len(groups) < most):
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
        size: int,
        *,
        may_pay: bool,
    ) -> list[str]:
        """Those whose last token this was, whatever is left; else the nearest, once a group is paid for.

        Else, on credit, who may not miss a slice.
        """
        last = [session for session in order if backlogs[session].tokens <= 1]
        if last:
            return last[:size]
        if may_pay and order and self._owed >= len(order[:size]):
            return list(order[:size])
        late = [session for session in order if left[session] >= backlogs[session].tokens]
        group = [session for session in late if session not in credited][:size]
        credited.update(group)
        return group


def _share(backlog: Backlog, tokens: int) -> float:
    """Of a backlog's slices, what a session owes that has just read ``tokens``.

    Of a run that ends at the deadline, the last token works off what is left.
    """
    share = tokens / (backlog.tokens + tokens - 1)
    return share if tokens > 1 else EARLY * share


def _passes_a_step(
    order: Sequence[str], backlogs: Mapping[str, Backlog], advanced: Mapping[str, int], size: int
) -> float:
    """As many, of ``size`` sessions, as bring everybody in time at their present pace; ``order``: the nearest
    deadline first.
    """
    needed, total, longest = 0.0, 0, 0
    for session in order:
        backlog, tokens = backlogs[session], advanced[session]
        total, longest = total + backlog.slices, max(longest, backlog.slices)
        steps = max(1.0, (backlog.tokens + tokens - 1) / tokens)
        needed = max(needed, max(total / size, longest) / steps)
    return needed
