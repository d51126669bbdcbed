"""A subject whose sessions do what a test says, in characters instead of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from hope_model.convert.progress import Progress, silent
from hope_model.evaluate.sessions.asking import Question, Reply

Answering = Callable[[str, str], str]
"""From what a session has read and the prompt to what it says."""


@dataclass
class Recorded:
    """A session. learn: None for a wide one. read_so_far: all of it, questions excluded."""

    learn: bool | None
    says: Answering
    read_so_far: str = ""
    asked: list[str] = field(default_factory=list)

    def read(self, ids: Sequence[int]) -> None:
        self.read_so_far += text_of(ids)

    def ask(self, questions: Sequence[Question], progress: Progress = silent) -> list[Reply]:
        replies = []
        for question in questions:
            prompt = text_of(question.prompt)
            said = self.says(self.read_so_far, prompt)
            self.asked.append(prompt)
            nats = tuple(_nats(text_of(answer).strip(), said, prompt) for answer in question.answers)
            replies.append(Reply(nats, f" {said}" if question.limit else ""))
        return replies


class Spoken:
    """See ``Subject``."""

    rule = "spoken"
    widens = True

    def __init__(self, says: Answering) -> None:
        self._says = says
        self.sessions: list[Recorded] = []
        self.room: list[int] = []

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(character) for character in text] for text in texts]

    def start(self) -> list[int]:
        return [ord("^")]

    @contextmanager
    def session(self, *, learn: bool) -> Iterator[Recorded]:
        yield self._made(learn)

    @contextmanager
    def wide(self, tokens: int) -> Iterator[Recorded]:
        self.room.append(tokens)
        yield self._made(None)

    def _made(self, learn: bool | None) -> Recorded:
        self.sessions.append(Recorded(learn, self._says))
        return self.sessions[-1]


def _nats(answer: str, said: str, prompt: str) -> float:
    """Where something else is said, what the prompt is about is the least likely."""
    if answer == said:
        return 0.0
    return -2.0 if answer in prompt else -1.0


def text_of(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def remembers(last: int) -> Answering:
    """Says the class of a query "about NAME ...", if it is among the ``last`` ones that were read of."""

    def says(read: str, prompt: str) -> str:
        known = list(dict.fromkeys(reversed(re.findall(r"Intent: (.+)\n", read))))[:last]
        found = re.search(r"about (.+) \d+\nIntent:$", prompt)
        return found[1] if found and found[1] in known else "nothing"

    return says
