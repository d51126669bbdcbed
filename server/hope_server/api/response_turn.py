"""Where a response's turn takes place, and what its session has to read for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from hope_client.wire import Item, ItemText, MessageItem, ResponseRequest
from hope_server.api.body import invalid
from hope_server.api.chat import as_messages, last_token
from hope_server.api.conversation import advance
from hope_server.api.response_documents import (
    CONVERSATION,
    Documents,
    place_of,
    session_of,
)
from hope_server.api.response_items import chat_body, kept, new_id
from hope_server.api.runtime import Runtime
from hope_server.api.tenancy import TenantSessions
from hope_server.api.tools import ToolUse, tool_use
from hope_server.api.turn import Prompt, tokenised
from hope_server.errors import EmptyPrompt, InvalidRequest, SessionBusy
from hope_server.sessions.session import MAX_DOCUMENT_BYTES, SessionMeta

MAX_STORED_INPUT_BYTES = MAX_DOCUMENT_BYTES // 2
"""As JSON; the output needs room too."""


@dataclass
class Place:
    """The session of a response.

    expected_seq: where its journal has to end when the turn begins; None for a conversation. told: what it
    has been told already. fresh: made for this response. temporary: thrown away with it.
    """

    session_id: str
    expected_seq: int | None
    told: str = ""
    conversation: bool = False
    fresh: bool = False
    temporary: bool = False


@dataclass
class ResponseTurn:
    """One request of the Responses API. `place` is None for one that keeps nothing and follows nothing."""

    runtime: Runtime
    sessions: TenantSessions
    body: ResponseRequest
    place: Place | None = None
    input: list[Item] = field(default_factory=list)
    told: str = ""

    def __post_init__(self) -> None:
        self.input = kept(self.body.items)
        try:
            self.chat = chat_body(self.body, self.input)
        except ValidationError as error:
            raise invalid(error.errors(include_url=False), self.body.model_dump()) from None
        self.tools: ToolUse | None = tool_use(self.runtime, self.chat)
        self.told = self._digest()
        self._check_size()

    def _check_size(self) -> None:
        """What could not be stored afterwards is refused before anything is learned."""
        size = sum(len(item.model_dump_json()) for item in self.input)
        if self.body.store and size > MAX_STORED_INPUT_BYTES:
            raise InvalidRequest(
                f"input: expected at most {MAX_STORED_INPUT_BYTES} bytes to store, found {size}: "
                "send less at once, or store: false",
                param="input",
                code="too_large_to_store",
            )

    async def open(self) -> None:
        """Find or make the session. Raises ResponseNotFound, and as making and forking sessions does."""
        body, sessions = self.body, self.sessions
        self.runtime.admit()
        if body.conversation_id is not None:
            self.place = await self._conversation(session_of(body.conversation_id))
        elif body.previous_response_id is not None:
            self.place = await self._after(body.previous_response_id)
        elif body.store:
            session_id = (await sessions.create(None)).session_id
            self.place = Place(session_id, 0, fresh=True)

    async def _conversation(self, session_id: str) -> Place:
        documents = Documents(self.sessions, session_id)
        await documents.conversation()
        await documents.require_room()
        names = [name for name in await documents.names() if name.startswith("r")]
        last = await documents.responses(names[-1:])
        told = next((each.told for each in last.values()), "")
        return Place(session_id, None, told, conversation=True)

    async def _after(self, previous: str) -> Place:
        session_id, name = place_of(previous)
        documents = Documents(self.sessions, session_id)
        stored = await documents.response(name)
        here = (await self.sessions.get(session_id)).seq == stored.seq
        if here and self.body.store and not await documents.is_conversation():
            await documents.require_room()
            return Place(session_id, stored.seq, stored.told)
        forked = await self.sessions.fork(session_id, seq=stored.seq, name=None)
        return Place(forked.session_id, forked.seq, stored.told, fresh=True, temporary=not self.body.store)

    async def close(self, *, stored: bool) -> None:
        """Nothing is left of a session that nobody could find again."""
        place = self.place
        if place is not None and (place.temporary or (place.fresh and not stored)):
            await self.sessions.delete(place.session_id)

    async def prompt(self) -> Prompt:
        """What the session reads: rules and tools that are new to it, items that wait, the input."""
        place = self.place
        if place is None:
            return await self._rendered([], None)
        meta = await self.sessions.get(place.session_id)
        if place.expected_seq not in (None, meta.seq):
            raise SessionBusy(
                "another response went on from the same one at the same time", retry_after_s=0.1
            )
        waiting = await self._waiting(meta) if place.conversation else []
        return await self._rendered(waiting, meta)

    async def _waiting(self, meta: SessionMeta) -> list[Item]:
        """Items of the conversation that no response has read; they are noted as being read."""
        documents = Documents(self.sessions, meta.session_id)
        stored = await documents.conversation()
        read = stored.read_at(meta.seq)
        names = [name for name in await documents.names() if name.startswith("i") and name > read]
        if not names:
            return []
        found = await documents.waiting(names)
        noted = {"read": read, "reading": names[-1], "reading_seq": meta.seq}
        await documents.put(CONVERSATION, stored.model_copy(update=noted))
        return [item for name in names if name in found for item in found[name].items]

    async def _rendered(self, waiting: Sequence[Item], meta: SessionMeta | None) -> Prompt:
        runtime = self.runtime
        chat = chat_body(self.body, [*self._rules(), *waiting, *self.input])
        messages = as_messages(runtime, chat.messages)
        if self.tools is not None and self._is_news():
            messages = self.tools.told(messages)
        if not any(message.text.strip() for message in messages):
            raise EmptyPrompt("expected an input with text, found only empty ones", param="input")
        begun = meta is not None and meta.transcript.count > 0
        after = await last_token(self.sessions, meta) if meta is not None and begun else None
        chars = sum(len(message.text) for message in messages)
        parts = await tokenised(runtime, chars, lambda: runtime.chat_format.render(messages, after=after))
        return Prompt(parts, None if meta is None else advance(meta.transcript, messages))

    def _rules(self) -> list[Item]:
        if not self.body.instructions or not self._is_news():
            return []
        text = ItemText(type="input_text", text=self.body.instructions)
        return [MessageItem(id=new_id("msg"), role="system", status="completed", content=[text])]

    def _is_news(self) -> bool:
        """A session that was told the same before is not told again."""
        return self.place is None or self.place.told != self.told

    def _digest(self) -> str:
        tools = [tool.as_json for tool in self.tools.tools] if self.tools else []
        text = json.dumps([self.body.instructions, tools])
        return hashlib.sha256(text.encode()).hexdigest()
