"""What a measurement needs of a session, wherever it lives: it reads on, and is asked in branches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hope_model.convert.progress import Progress, silent
from hope_model.errors import EvaluationError

STOP = "\n"
"""A free answer ends before it."""


@dataclass(frozen=True)
class Question:
    """Token ids after which is judged how likely each of ``answers`` is, and what comes by itself.

    answers: none of them empty; none at all: nothing is judged. limit: most tokens of the greedy answer,
    which ends before :data:`STOP`; 0: none is wanted.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...] = ()
    limit: int = 0


@dataclass(frozen=True)
class Reply:
    """nats: log-likelihoods of the answers, in their order. text: the greedy answer."""

    nats: tuple[float, ...]
    text: str

    def best(self) -> int:
        """The number of the likeliest answer, the first of several.

        Raises:
            EvaluationError: a likelihood is no number.
        """
        if not all(map(math.isfinite, self.nats)):
            raise EvaluationError(f"expected finite log-likelihoods of answers, found {self.nats}")
        return max(range(len(self.nats)), key=self.nats.__getitem__)

    def above(self, prior: Reply) -> Reply:
        """How much likelier each answer is than in another reply."""
        return Reply(tuple(a - b for a, b in zip(self.nats, prior.nats, strict=True)), self.text)


class TextSession(Protocol):
    """One session. What is asked is read by branches that learn nothing and are thrown away."""

    def read(self, ids: Sequence[int]) -> None:
        """Go on with these tokens, and learn from them if the session learns."""
        ...

    def ask(self, questions: Sequence[Question], progress: Progress = silent) -> list[Reply]:
        """Each question in a branch of its own, from where the session stands."""
        ...


class Subject(Protocol):
    """A model, and sessions of it."""

    @property
    def rule(self) -> str:
        """What learns in it: a rule's name, or the family's."""
        ...

    @property
    def widens(self) -> bool:
        """Whether :meth:`wide` sees more than :meth:`session` does."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...

    def start(self) -> list[int]:
        """The ids that come before every text; none for most models."""
        ...

    def session(self, *, learn: bool) -> AbstractContextManager[TextSession]:
        """A session that has read nothing; its end is the context's."""
        ...

    def wide(self, tokens: int) -> AbstractContextManager[TextSession]:
        """One that never learns and, where the model can, has ``tokens`` in sight, branches included."""
        ...


class ServedSubject(Subject, Protocol):
    """What a server serves."""

    @property
    def name(self) -> str: ...


def until_stop(text: str) -> str:
    """A greedy answer without what follows its end."""
    return text.partition(STOP)[0]
