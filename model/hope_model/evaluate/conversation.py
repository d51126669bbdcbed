"""Conversations as a served session reads them: parts of tokens, each with an origin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Message(NamedTuple):
    """One message; ``role`` is "system", "user" or "assistant"."""

    role: str
    text: str


class LastToken(NamedTuple):
    """The token that a session read last, and its origin."""

    token: int
    origin: str


Part = tuple[str, Sequence[int]]
"""``(origin, token ids)``."""
Render = Callable[[Sequence[Message], LastToken | None], Sequence[Part]]
"""New messages, after where the session stands (None at its beginning), as parts that end with what opens the
model's answer. An answer without its end is ended first."""


class TextTokenizer(Protocol):
    """What an evaluation needs of a tokenizer; ``encode`` never yields special ids."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class ChatFormat:
    """How a model talks: its tokenizer, its chat format and the ids with which it ends an answer."""

    tokenizer: TextTokenizer
    render: Render
    stop_ids: frozenset[int]

    def question(self, text: str, after: LastToken | None) -> tuple[int, ...]:
        """Ids of a user's message up to the opened answer."""
        return flat(self.render([Message("user", text)], after))


@dataclass
class Transcript:
    """The parts of a conversation in the order of reading; an answer's end is written by the next turn."""

    chat: ChatFormat
    parts: list[Part] = field(default_factory=list)
    last: LastToken | None = None
    tokens: int = 0

    def exchange(self, user: str, assistant: str) -> None:
        """A user's message and the scripted answer to it."""
        for part in self.chat.render([Message("user", user)], self.last):
            self._add(part)
        self._add(("model", self.chat.tokenizer.encode(assistant)))

    def _add(self, part: Part) -> None:
        origin, ids = part
        if ids:
            self.parts.append(part)
            self.last = LastToken(ids[-1], origin)
            self.tokens += len(ids)


def flat(parts: Sequence[Part]) -> tuple[int, ...]:
    """The ids of all parts."""
    return tuple(token for _, ids in parts for token in ids)
