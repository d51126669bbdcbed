"""What is kept of responses and conversations: documents beside the journal of the session they belong to.

A response's id names its session, so that it is found without an index, by its own tenant alone. Documents
are named by kind and time: r (a response), i (items that wait for one); c says that it is a conversation.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from hope_client.wire import (
    CONVERSATION_ID_PATTERN,
    RESPONSE_ID_PATTERN,
    Conversation,
    Item,
    MessageItem,
    ResponseObject,
)
from hope_server.api.tenancy import TenantSessions
from hope_server.errors import InvalidRequest, ResponseNotFound, SessionCorrupted, SessionNotFound
from hope_server.sessions.refusals import too_many_documents
from hope_server.sessions.session import MAX_DOCUMENT_BYTES, MAX_DOCUMENTS

CONVERSATION = "c"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StoredResponse(_Document):
    """seq: where the session's journal ended then. told: what it had been told of tools and instructions."""

    response: ResponseObject
    input: list[Item]
    seq: int
    told: str


class WaitingItems(_Document):
    items: list[Item]


class StoredConversation(_Document):
    """Waiting items up to `read` were read, and up to `reading` once the journal is beyond `reading_seq`."""

    created_at: int
    metadata: dict[str, str]
    read: str = ""
    reading: str = ""
    reading_seq: int = 0

    def read_at(self, seq: int) -> str:
        """The last waiting document that was read, by the time that the journal ends at `seq`."""
        return self.reading if self.reading and seq > self.reading_seq else self.read


D = TypeVar("D", bound=_Document)


def new_name(kind: str) -> str:
    return f"{kind}{time.time_ns():016x}"


def response_id(session_id: str, name: str) -> str:
    return f"resp_{session_id}_{name[1:]}"


def conversation_id(session_id: str) -> str:
    return f"conv_{session_id}"


def without_logprobs(response: ResponseObject) -> ResponseObject:
    """As it is stored: log-probabilities would be most of it."""
    output = [
        item.model_copy(
            update={"content": [part.model_copy(update={"logprobs": []}) for part in item.content]}
        )
        if isinstance(item, MessageItem)
        else item
        for item in response.output
    ]
    return response.model_copy(update={"output": output})


def place_of(given: str) -> tuple[str, str]:
    """The session and the document that a response's id names. Raises ResponseNotFound."""
    if not re.fullmatch(RESPONSE_ID_PATTERN, given):
        raise response_not_found()
    session_id, _, stamp = given.removeprefix("resp_").rpartition("_")
    return session_id, f"r{stamp}"


def session_of(given: str) -> str:
    """The session of a conversation's id. Raises ResponseNotFound."""
    if not re.fullmatch(CONVERSATION_ID_PATTERN, given):
        raise conversation_not_found()
    return given.removeprefix("conv_")


def response_not_found() -> ResponseNotFound:
    return ResponseNotFound("there is no response with this id")


def conversation_not_found() -> ResponseNotFound:
    return ResponseNotFound("there is no conversation with this id", code="conversation_not_found")


class Documents:
    """The documents of one session of a tenant."""

    def __init__(self, sessions: TenantSessions, session_id: str) -> None:
        self._sessions = sessions
        self.session_id = session_id

    async def response(self, name: str) -> StoredResponse:
        """Raises ResponseNotFound."""
        found = await self._read(StoredResponse, [name], response_not_found())
        return found[name]

    async def conversation(self) -> StoredConversation:
        """Raises ResponseNotFound."""
        found = await self._read(StoredConversation, [CONVERSATION], conversation_not_found())
        return found[CONVERSATION]

    async def require_room(self) -> None:
        """Raises TooManyDocuments if one more could not be put."""
        if len(await self._sessions.document_names(self.session_id)) >= MAX_DOCUMENTS:
            raise too_many_documents(self._sessions.key(self.session_id))

    async def is_conversation(self) -> bool:
        return CONVERSATION in await self._sessions.document_names(self.session_id)

    async def names(self) -> list[str]:
        """Of responses and waiting items, in the order of their time."""
        names = await self._sessions.document_names(self.session_id)
        return sorted((name for name in names if name != CONVERSATION), key=lambda name: name[1:])

    async def responses(self, names: Sequence[str]) -> dict[str, StoredResponse]:
        return await self._read(StoredResponse, names, None)

    async def waiting(self, names: Sequence[str]) -> dict[str, WaitingItems]:
        return await self._read(WaitingItems, names, None)

    async def put(self, name: str, document: _Document) -> None:
        """Raises InvalidRequest for one that is too large, TooManyDocuments, StorageQuotaExceeded."""
        data = document.model_dump_json(exclude_none=False).encode()
        if len(data) > MAX_DOCUMENT_BYTES:
            raise InvalidRequest(
                f"expected input and output that fit {MAX_DOCUMENT_BYTES} bytes together, found {len(data)}: "
                "send less at once, or store: false",
                param="input",
                code="too_large_to_store",
            )
        await self._sessions.put_document(self.session_id, name, data)

    async def remove(self, name: str) -> None:
        await self._sessions.put_document(self.session_id, name, None)

    async def _read(
        self, model: type[D], names: Sequence[str], missing: ResponseNotFound | None
    ) -> dict[str, D]:
        try:
            found = await self._sessions.documents(self.session_id, names)
        except SessionNotFound:
            if missing is None:
                raise
            raise missing from None
        if missing is not None and not found:
            raise missing
        try:
            return {name: model.model_validate_json(data) for name, data in found.items()}
        except ValueError as error:
            raise SessionCorrupted(f"a document of session {self.session_id} cannot be read") from error


def as_conversation(session_id: str, stored: StoredConversation) -> Conversation:
    return Conversation(
        id=conversation_id(session_id), created_at=stored.created_at, metadata=stored.metadata
    )
