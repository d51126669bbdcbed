"""What one session's journal must be, from what its client was told: the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from hope_client.wire import Event

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Lost(AssertionError):
    """Acknowledged tokens are not where they were acknowledged. ``tokens``: how many."""

    def __init__(self, message: str, tokens: int = 1) -> None:
        super().__init__(message)
        self.tokens = tokens


class LearnedTwice(AssertionError):
    """Something is in the journal more often than it was asked for."""


@dataclass
class Turn:
    """One request, however often it was sent, and what its client was sent of the answer."""

    prompt: tuple[int, ...]
    max_tokens: int
    text: str = ""
    tokens: int = 0
    complete: bool = False
    """The answer was received to its end, so nothing can be added to it."""


@dataclass(frozen=True)
class Entry:
    """One number of the journal; no token for a reset, a rollback or a freeze."""

    kind: str
    token: int | None


@dataclass
class Book:
    """The journal of one session. Its client does one thing at a time, each until it is certain."""

    session: str
    entries: list[Entry] = field(default_factory=list)
    positions: list[int] = field(default_factory=lambda: [0])
    """Tokens in the state after each number, beginning with number 0."""
    learns: list[bool] = field(default_factory=lambda: [True])
    """Whether learning goes on after each number: a freeze ends it, a return to before that undoes this."""
    room: int = 0
    """Tokens by which the last answer may still grow: its turn may still be running somewhere."""

    @property
    def head(self) -> int:
        return len(self.entries)

    @property
    def tokens(self) -> int:
        return self.positions[-1]

    @property
    def ends(self) -> int:
        """How often learning ended."""
        return sum(entry.kind == "freeze" for entry in self.entries)

    def fork(self, session: str, seq: int) -> Self:
        """The book of a fork at ``seq``."""
        return type(self)(session, self.entries[:seq], self.positions[: seq + 1], self.learns[: seq + 1])

    def read_turn(self, tail: Sequence[Event], turn: Turn) -> list[int]:
        """The journal beyond the head once ``turn`` is certain to be in it; its answer's tokens."""
        added = self._read_growth(tail)
        rest = _without_freeze(added)
        prompt, answer = rest[: len(turn.prompt)], rest[len(turn.prompt) :]
        found = tuple(event.token for event in prompt if event.kind == "run")
        if found != turn.prompt:
            raise Lost(
                f"expected the prompt {turn.prompt} after {self.head}, found {found}", len(turn.prompt)
            )
        steps = [event for event in answer if event.kind == "step"]
        if answer[: len(steps)] != steps or len(steps) > turn.max_tokens or len(answer) > len(steps):
            raise LearnedTwice(f"after {self.head}: {len(answer)} entries for {turn.max_tokens} tokens")
        if len(steps) < turn.tokens:
            raise Lost(
                f"{turn.tokens} tokens were sent after {self.head}, {len(steps)} are there",
                turn.tokens - len(steps),
            )
        text = "".join(event.text or "" for event in steps)
        if not text.startswith(turn.text.rstrip(REPLACEMENT)):
            raise Lost(f"{turn.text!r} was sent after {self.head}, {text!r} is there", turn.tokens)
        if turn.complete and len(steps) > turn.tokens:
            raise LearnedTwice(f"{turn.tokens} tokens were the whole answer, {len(steps)} are there")
        self._add(added)
        self.room = 0 if turn.complete else turn.max_tokens - len(steps)
        return [event.token for event in steps if event.token is not None]

    def read_return(self, tail: Sequence[Event], kind: str, seq: int, attempts: int) -> None:
        """The same for a reset (``seq`` 0) or a rollback to ``seq``, sent ``attempts`` times."""
        rest = self._read_growth(tail)
        if not rest:
            raise Lost(f"a {kind} after {self.head} was acknowledged and is not there")
        if len(rest) > attempts or any(event.kind != kind for event in rest):
            kinds = [event.kind for event in rest]
            raise LearnedTwice(f"expected at most {attempts} times {kind} after {self.head}, found {kinds}")
        for _ in rest:
            self.entries.append(Entry(kind, None))
            self.positions.append(self.positions[seq])
            self.learns.append(self.learns[seq])
        self.room = 0

    def compare(self, events: Sequence[Event]) -> None:
        """The whole journal, read anew, is what it was."""
        found = [Entry(event.kind, event.token) for event in events]
        wrong = [
            number
            for number, entry in enumerate(self.entries)
            if number >= len(found) or found[number] != entry or events[number].seq != number + 1
        ]
        if wrong:
            raise Lost(f"entry {wrong[0] + 1} of {self.session} is not what it was", len(wrong))
        if len(found) > self.head:
            raise LearnedTwice(f"{self.session}: {len(found)} entries, {self.head} were asked for")

    def _read_growth(self, tail: Sequence[Event]) -> Sequence[Event]:
        """``tail`` without what still belongs to the answer before."""
        numbers = [event.seq for event in tail]
        if numbers != list(range(self.head + 1, self.head + 1 + len(tail))):
            raise Lost(f"the journal after {self.head} has the numbers {numbers}")
        _without_freeze(tail)
        grown = steps = 0
        while grown < len(tail) and tail[grown].kind in ("step", "freeze"):
            steps += tail[grown].kind == "step"
            if steps > self.room:
                break
            grown += 1
        self._add(tail[:grown])
        return tail[grown:]

    def _add(self, events: Sequence[Event]) -> None:
        for event in events:
            self.entries.append(Entry(event.kind, event.token))
            self.positions.append(self.positions[-1] + (event.kind != "freeze"))
            if event.kind == "freeze" and not self.learns[-1]:
                raise LearnedTwice(f"learning ended again at {event.seq}")
            self.learns.append(self.learns[-1] and event.kind != "freeze")


def _without_freeze(events: Sequence[Event]) -> Sequence[Event]:
    """The server itself may end a session's learning, once, between any two entries; no token is lost."""
    rest = [event for event in events if event.kind != "freeze"]
    if len(events) > len(rest) + 1:
        raise LearnedTwice(f"learning ended {len(events) - len(rest)} times after {events[0].seq - 1}")
    return rest
