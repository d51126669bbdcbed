"""/v1/conversations: a conversation is a session, and the items that it has read or is to read next."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request

from hope_client.wire import (
    Conversation,
    ConversationCreate,
    ConversationDeleted,
    ConversationItemsCreate,
    ConversationUpdate,
    Item,
    ItemList,
)
from hope_server.api.body import read_json
from hope_server.api.items import PagingOf, item_list, item_of
from hope_server.api.openapi import accepts
from hope_server.api.response_documents import (
    CONVERSATION,
    Documents,
    StoredConversation,
    WaitingItems,
    as_conversation,
    new_name,
    session_of,
)
from hope_server.api.response_items import kept
from hope_server.api.runtime import RuntimeOf
from hope_server.api.tenancy import SessionsOf, TenantSessions
from hope_server.errors import InvalidRequest

router = APIRouter(prefix="/v1/conversations", tags=["conversations"])


@router.post("", openapi_extra=accepts(ConversationCreate, required=False))
async def create(request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Conversation:
    """A new conversation. The body may be empty."""
    body = await read_json(request, ConversationCreate, limit=runtime.config.max_body_bytes)
    runtime.admit()
    session_id = (await sessions.create(None)).session_id
    documents = Documents(sessions, session_id)
    stored = StoredConversation(created_at=int(time.time()), metadata=body.metadata or {})
    try:
        if body.items:
            await documents.put(new_name("i"), WaitingItems(items=kept(body.items)))
        await documents.put(CONVERSATION, stored)
    except BaseException:
        await sessions.delete(session_id)
        raise
    return as_conversation(session_id, stored)


@router.get("/{identity}")
async def get(identity: str, sessions: SessionsOf) -> Conversation:
    """One conversation."""
    documents = Documents(sessions, session_of(identity))
    return as_conversation(documents.session_id, await documents.conversation())


@router.post("/{identity}", openapi_extra=accepts(ConversationUpdate))
async def update(identity: str, request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Conversation:
    """Other metadata."""
    body = await read_json(request, ConversationUpdate, limit=runtime.config.max_body_bytes)
    documents = Documents(sessions, session_of(identity))
    with sessions.hold(documents.session_id):
        stored = (await documents.conversation()).model_copy(update={"metadata": body.metadata})
        await documents.put(CONVERSATION, stored)
    return as_conversation(documents.session_id, stored)


@router.delete("/{identity}")
async def delete(identity: str, sessions: SessionsOf) -> ConversationDeleted:
    """Delete the session with everything that it learned."""
    documents = Documents(sessions, session_of(identity))
    await documents.conversation()
    await sessions.delete(documents.session_id)
    return ConversationDeleted(id=identity)


@router.post("/{identity}/items", openapi_extra=accepts(ConversationItemsCreate))
async def add_items(identity: str, request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> ItemList:
    """Items that the conversation's next response reads before its input."""
    body = await read_json(request, ConversationItemsCreate, limit=runtime.config.max_body_bytes)
    documents = Documents(sessions, session_of(identity))
    with sessions.hold(documents.session_id):
        await documents.conversation()
        items = kept(body.items)
        await documents.put(new_name("i"), WaitingItems(items=items))
    return item_list(items)


@router.get("/{identity}/items")
async def list_items(identity: str, sessions: SessionsOf, paging: PagingOf) -> ItemList:
    """A page of the conversation's items, the newest first unless asked for otherwise."""
    return paging.page(await _items(Documents(sessions, session_of(identity))))


@router.get("/{identity}/items/{item_id}")
async def get_item(identity: str, item_id: str, sessions: SessionsOf) -> Item:
    """One item."""
    return item_of(await _items(Documents(sessions, session_of(identity))), item_id)


@router.delete("/{identity}/items/{item_id}")
async def delete_item(identity: str, item_id: str, sessions: SessionsOf) -> Conversation:
    """Take an item back that no response has read yet. What a session has read, it has learned."""
    documents = Documents(sessions, session_of(identity))
    with sessions.hold(documents.session_id):
        stored = await documents.conversation()
        item = item_of(await _items(documents), item_id)
        await _take_back(sessions, documents, stored, item)
    return as_conversation(documents.session_id, stored)


async def _take_back(
    sessions: TenantSessions, documents: Documents, stored: StoredConversation, item: Item
) -> None:
    read = stored.read_at((await sessions.get(documents.session_id)).seq)
    names = [name for name in await documents.names() if name.startswith("i") and name > read]
    for name, waiting in (await documents.waiting(names)).items():
        if item in waiting.items:
            rest = [each for each in waiting.items if each != item]
            if rest:
                await documents.put(name, WaitingItems(items=rest))
            else:
                await documents.remove(name)
            return
    raise InvalidRequest(
        "the conversation has read this item and learned it: roll its session back instead",
        param="item_id",
        code="item_already_read",
    )


async def _items(documents: Documents) -> list[Item]:
    """All items, the oldest first."""
    await documents.conversation()
    names = await documents.names()
    responses = await documents.responses([name for name in names if name.startswith("r")])
    waiting = await documents.waiting([name for name in names if name.startswith("i")])
    items: list[Item] = []
    for name in names:
        if name in responses:
            items += [*responses[name].input, *responses[name].response.output]
        elif name in waiting:
            items += waiting[name].items
    return items
