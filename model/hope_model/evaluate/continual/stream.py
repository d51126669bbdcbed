"""A session reads one task after the other, and after each is asked about all of them."""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from hope_model.convert.progress import Progress, silent
from hope_model.errors import DataError
from hope_model.evaluate.continual.data import Example, StreamTask, name_of
from hope_model.evaluate.sessions.asking import Question, Reply, Subject, TextSession
from hope_model.evaluate.sessions.reading import opened, tokens_of

LIKELIEST, CALIBRATED, GREEDY = FIGURES = ("likeliest", "calibrated", "greedy")
"""A question is answered rightly if its class is the likeliest of all, gains most over a query that says
nothing (contextual calibration, arXiv 2102.09690), or is what the session says by itself.
"""
NOTHING = "N/A"
"""The query that says nothing."""
SPARE = 2
"""Tokens that a free answer may have beyond the longest class's name."""


@dataclass(frozen=True)
class Row:
    """After task ``task`` (from 0): by figure and task, which questions were answered rightly."""

    task: int
    right: dict[str, list[list[bool]]]


class ContinualStream:
    """The tasks in one model's tokens.

    Args:
        subject: whose sessions read.
        tasks: in their order; questions are about the classes of all of them, from the first on.
        figures: of :data:`FIGURES`, those that are measured.
        seed: which examples a prompt holds.
    """

    def __init__(
        self,
        subject: Subject,
        tasks: Sequence[StreamTask],
        *,
        figures: Sequence[str] = FIGURES,
        seed: int = 0,
    ) -> None:
        self._subject, self._tasks, self._figures, self._seed = subject, tasks, figures, seed
        self._classes = [label for task in tasks for label in task.classes]
        self._told = [subject.encode([_told(example) for example in task.told]) for task in tasks]
        # The end of the line belongs to the answer: one name may be the beginning of another.
        answers = subject.encode([f" {name_of(label)}\n" for label in self._classes])
        self._judged = tuple(map(tuple, answers))
        self._questions = [self._asked(task) for task in tasks]
        (nothing,) = subject.encode([_asked(NOTHING)])
        self._nothing = Question(tuple(nothing), self._judged)

    def rows(
        self,
        condition: str,
        *,
        context_tokens: int,
        done: Collection[int] = (),
        progress: Progress = silent,
    ) -> Iterator[Row]:
        """What is known after each task.

        Args:
            condition: "on" and "off": one session reads all tasks and learns, or does not. "context": after
                each task a new session, which does not learn, has examples of all classes so far in sight.
            context_tokens: of those examples.
            done: tasks (from 0) after which nothing is asked, since it is known.

        Raises:
            DataError: not one example fits into a prompt.
        """
        if condition == "context":
            yield from self._in_context(context_tokens, done, progress)
            return
        total = sum(len(ids) for told in self._told for ids in told) + self._longest()
        with opened(self._subject, condition, total) as session:
            for task, told in enumerate(self._told):
                session.read([token for ids in told for token in ids])
                if task not in done:
                    yield self._row(task, session, progress)

    def _in_context(self, tokens: int, done: Collection[int], progress: Progress) -> Iterator[Row]:
        for task in range(len(self._tasks)):
            if task not in done:
                prompt = self._prompt(task, tokens)
                with opened(self._subject, "context", len(prompt) + self._longest()) as session:
                    session.read(prompt)
                    yield self._row(task, session, progress)

    def _row(self, task: int, session: TextSession, progress: Progress) -> Row:
        questions = [question for own in self._questions for question in own]
        step = f"after task {task + 1} of {len(self._tasks)}"
        prior = session.ask([self._nothing])[0] if CALIBRATED in self._figures else None
        replies = iter(session.ask(questions, partial(renamed, progress, step)))
        right: dict[str, list[list[bool]]] = {figure: [] for figure in self._figures}
        for own in self._tasks:
            pairs = [(example, next(replies)) for example in own.asked]
            for figure in self._figures:
                right[figure].append([self._is_right(figure, *pair, prior) for pair in pairs])
        return Row(task, right)

    def _is_right(self, figure: str, example: Example, reply: Reply, prior: Reply | None) -> bool:
        if figure == GREEDY:
            return reply.text.strip().lower() == name_of(example.label).lower()
        judged = reply.above(prior) if figure == CALIBRATED and prior is not None else reply
        return self._classes[judged.best()] == example.label

    def _asked(self, task: StreamTask) -> list[Question]:
        limit = max(map(len, self._judged)) + SPARE if GREEDY in self._figures else 0
        judged = self._judged if {LIKELIEST, CALIBRATED} & set(self._figures) else ()
        prompts = self._subject.encode([_asked(example.text) for example in task.asked])
        return [Question(tuple(prompt), judged, limit) for prompt in prompts]

    def _prompt(self, task: int, tokens: int) -> list[int]:
        """Examples of the classes up to ``task``, in turns, as many as ``tokens`` hold; then in any order."""
        by_class: dict[str, list[list[int]]] = {}
        for own, told in zip(self._tasks[: task + 1], self._told, strict=False):
            for example, ids in zip(own.told, told, strict=True):
                by_class.setdefault(example.label, []).append(ids)
        rng = random.Random(f"{self._seed}/{task}")
        chosen, left = [], tokens
        for turn in zip_longest(*rng.sample(sorted(by_class.values()), len(by_class))):
            for ids in turn:
                if ids is not None and len(ids) <= left:
                    chosen.append(ids)
                    left -= len(ids)
        if not chosen:
            raise DataError(f"context_tokens: expected room for one example at least, found {tokens}")
        return [token for ids in rng.sample(chosen, len(chosen)) for token in ids]

    def _longest(self) -> int:
        questions = [question for own in self._questions for question in own]
        return max(map(tokens_of, [self._nothing, *questions]))


def renamed(progress: Progress, name: str, step: str, done: int = 0, total: int = 0) -> None:
    """``progress`` with ``name`` before its steps."""
    progress(f"{name}: {step}", done, total)


def _told(example: Example) -> str:
    return f"{_asked(example.text)} {name_of(example.label)}\n"


def _asked(text: str) -> str:
    return f"Query: {' '.join(text.split())}\nIntent:"
