"""GET /v1/sessions/{id}/messages: the chat as the session remembers it, read back from its journal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query

from hope_client.wire import MAX_PAGE_MESSAGES, MAX_SEQ, MessageRole, SessionMessage, SessionMessages
from hope_server.api.runtime import Runtime, RuntimeOf
from hope_server.api.tenancy import SessionsOf
from hope_server.api.text import TokenDecoder
from hope_server.api.turn import tokenised
from hope_server.sessions.session import JournalRecord, Origin

DEFAULT_MESSAGES = 200
MAX_PAGE_CHARS = 1_000_000
"""A page ends with the message that passes this size."""
ROLES: dict[Origin, MessageRole] = {
    "system": "system",
    "user": "user",
    "tool": "tool",
    "model": "assistant",
    "text": "text",
}
"""What a chat template writes around messages is nobody's."""

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["sessions"])


@router.get("/messages")
async def messages(
    session_id: str,
    runtime: RuntimeOf,
    sessions: SessionsOf,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_MESSAGES)] = DEFAULT_MESSAGES,
) -> SessionMessages:
    """The messages behind the journal entry `after` that the session's state has read, in order: without
    what was rolled back or came before a reset. The next page begins after the last one's `last_seq`.
    """
    found: list[SessionMessage] = []
    chars = 0
    async with (
        aclosing(sessions.path(session_id, after=after)) as records,
        aclosing(_grouped(runtime, records)) as grouped,
    ):
        async for message in grouped:
            if len(found) >= limit or chars >= MAX_PAGE_CHARS:
                return SessionMessages(data=found, has_more=True)
            found.append(message)
            chars += len(message.text)
    return SessionMessages(data=found, has_more=False)


class _Open:
    """A message whose end has not been seen."""

    def __init__(self, runtime: Runtime, record: JournalRecord) -> None:
        self._decoder = TokenDecoder(runtime.tokenizer.decode_bytes)
        self._stops = runtime.chat_format.stop_token_ids
        self._first = record
        self._pieces: list[str] = []
        self._last_seq = self._last_token = 0

    def takes(self, record: JournalRecord) -> bool:
        """Whether the record goes on with the message: one of the same origin and request does."""
        return (record.origin, record.request) == (self._first.origin, self._first.request)

    def read(self, record: JournalRecord) -> None:
        self._pieces += map(self._decoder.feed, record.tokens)
        self._last_seq, self._last_token = record.last_seq, record.tokens[-1]

    def closed(self) -> SessionMessage:
        role = ROLES[self._first.origin]
        return SessionMessage(
            role=role,
            text="".join((*self._pieces, self._decoder.flush())),
            first_seq=self._first.first_seq,
            last_seq=self._last_seq,
            finished=role != "assistant" or self._last_token in self._stops,
            learn="on" if self._first.learn else "off",
        )


async def _grouped(runtime: Runtime, records: AsyncIterator[JournalRecord]) -> AsyncGenerator[SessionMessage]:
    message: _Open | None = None
    async for record in records:
        if message is not None and not message.takes(record):
            yield message.closed()
            message = None
        if record.origin in ROLES:
            message = message or _Open(runtime, record)
            await tokenised(runtime, len(record.tokens), partial(message.read, record))
    if message is not None:
        yield message.closed()
