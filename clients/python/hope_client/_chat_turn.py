"""One turn of `hope chat`, which outlives a server that goes away in its middle."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hope_client import wire
from hope_client._command import journal
from hope_client._requests import ChatOptions
from hope_client._stream import text_of
from hope_client.client import Client, Stream
from hope_client.errors import (
    AlreadyLearned,
    APIConnectionError,
    APIStatusError,
    HopeClientError,
    SessionBusyError,
    StreamError,
    UnavailableError,
)

PATIENCE_S = 120.0
"""How long a server may be away."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 3.0
_PASSING = frozenset({"shutting_down", "store_unavailable", "internal_error", "session_fenced", "lease_held"})
"""Codes of errors inside a stream after which the turn may be asked for again."""


class Shows(Protocol):
    """Takes the pieces of an answer."""

    def add(self, piece: str) -> None: ...


@dataclass
class Turn:
    """Sends messages under one Idempotency-Key until the session has learned them once.

    text: what has been shown of the answer. hope: what the turn did, None where that is not known. broken:
    the answer ends where the server went away.
    """

    client: Client
    session_id: str
    messages: Sequence[dict[str, object]]
    options: ChatOptions
    away: Callable[[HopeClientError], None]
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    key: str = field(default_factory=lambda: f"chat-{uuid.uuid4().hex}")
    text: str = ""
    hope: wire.HopeTurn | None = None
    finish_reason: wire.FinishReason | None = None
    broken: bool = False

    def run(self, answer: Shows) -> None:
        """Show the answer. `away` is told once when the server cannot be reached.

        Raises HopeClientError: the server refuses the turn, or stays away for PATIENCE_S.
        """
        until_s, pause_s, told = self.clock() + PATIENCE_S, FIRST_PAUSE_S, False
        while True:
            try:
                return self._attempt(answer)
            except AlreadyLearned as error:
                return self._from_journal(answer, error)
            except HopeClientError as error:
                if not passes(error) or self.clock() >= until_s:
                    raise
                if not told:
                    self.away(error)
                told = True
            self.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _attempt(self, answer: Shows) -> None:
        options: ChatOptions = {**self.options, "session_id": self.session_id, "idempotency_key": self.key}
        with self.client.chat(self.messages, stream=True, **options) as stream:
            for piece in self._pieces(stream):
                self.text += piece
                answer.add(piece)
        self.finish_reason = stream.finish_reason

    def _pieces(self, stream: Stream[wire.ChatCompletionChunk]) -> Iterator[str]:
        for chunk in stream:
            self.hope = chunk.hope or self.hope
            if piece := text_of(chunk):
                yield piece

    def _from_journal(self, answer: Shows, learned: AlreadyLearned) -> None:
        """The server had committed more than it could send: the rest of it is in the journal."""
        self.broken = True
        if learned.first_seq is None or learned.last_seq is None:
            return
        turn = journal(self.client, self.session_id, after=learned.first_seq - 1, last=learned.last_seq)
        said = "".join(event.text or "" for event in turn if event.kind == "step" and event.origin == "model")
        shown = self.text if said.startswith(self.text) else ""
        answer.add(said[len(shown) :])
        self.text = said


def passes(error: HopeClientError) -> bool:
    """Whether the same turn may succeed in a while."""
    if isinstance(error, StreamError):
        return error.code in _PASSING
    if isinstance(error, APIStatusError) and error.should_retry is False:
        return False
    return isinstance(error, APIConnectionError | UnavailableError | SessionBusyError)
