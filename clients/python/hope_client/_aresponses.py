"""Responses and conversations: `client.responses`, `client.conversations`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Unpack, overload

from hope_client import _response_requests as requests
from hope_client import wire
from hope_client._response_requests import Items, Order, ResponseOptions

if TYPE_CHECKING:
    from hope_client.aclient import AsyncClient, AsyncStream


class AsyncResponses:
    """Answers that go on from one another: `client.responses`."""

    def __init__(self, client: "AsyncClient") -> None:
        self._client = client

    @overload
    async def create(
        self, given: str | Items, *, stream: Literal[False] = False, **options: Unpack[ResponseOptions]
    ) -> wire.ResponseObject: ...

    @overload
    async def create(
        self, given: str | Items, *, stream: Literal[True], **options: Unpack[ResponseOptions]
    ) -> "AsyncStream[wire.ResponseEvent]": ...

    async def create(
        self, given: str | Items, *, stream: bool = False, **options: Unpack[ResponseOptions]
    ) -> "wire.ResponseObject | AsyncStream[wire.ResponseEvent]":
        """Answer a text, or items; a stream gives events."""
        if stream:
            call = requests.response(given, stream=True, answer=wire.ResponseEvent, **options)
            return await self._client.open(call)
        return await self._client.call(
            requests.response(given, stream=False, answer=wire.ResponseObject, **options)
        )

    async def get(self, response_id: str) -> wire.ResponseObject:
        """A stored response. Raises NotFoundError."""
        return await self._client.call(requests.response_get(response_id))

    async def delete(self, response_id: str) -> wire.ResponseDeleted:
        """Forget a response; the last one of a session takes the session with it."""
        return await self._client.call(requests.response_delete(response_id))

    async def input_items(
        self, response_id: str, *, after: str | None = None, limit: int = 20, order: Order = "desc"
    ) -> wire.ItemList:
        """A page of the items that the response's request brought."""
        return await self._client.call(requests.response_items(response_id, after, limit, order))


class AsyncConversations:
    """Sessions by their items: `client.conversations`."""

    def __init__(self, client: "AsyncClient") -> None:
        self._client = client

    async def create(
        self, items: Items | None = None, *, metadata: Mapping[str, str] | None = None
    ) -> wire.Conversation:
        """A new conversation, whose first response reads `items`."""
        return await self._client.call(requests.conversation_create(items, metadata))

    async def get(self, conversation_id: str) -> wire.Conversation:
        """One conversation. Raises NotFoundError."""
        return await self._client.call(requests.conversation_get(conversation_id))

    async def update(self, conversation_id: str, *, metadata: Mapping[str, str]) -> wire.Conversation:
        """Other metadata."""
        return await self._client.call(requests.conversation_update(conversation_id, metadata))

    async def delete(self, conversation_id: str) -> wire.ConversationDeleted:
        """Delete the session with everything that it learned."""
        return await self._client.call(requests.conversation_delete(conversation_id))

    async def items(
        self, conversation_id: str, *, after: str | None = None, limit: int = 20, order: Order = "desc"
    ) -> wire.ItemList:
        """A page of the conversation's items."""
        return await self._client.call(requests.conversation_items(conversation_id, after, limit, order))

    async def item(self, conversation_id: str, item_id: str) -> wire.Item:
        """One item. Raises NotFoundError."""
        return (await self._client.call(requests.conversation_item(conversation_id, item_id))).root

    async def add(self, conversation_id: str, items: Items) -> wire.ItemList:
        """Items that the next response reads."""
        return await self._client.call(requests.conversation_add(conversation_id, items))

    async def remove(self, conversation_id: str, item_id: str) -> wire.Conversation:
        """Take an item back that no response has read yet."""
        return await self._client.call(requests.conversation_remove(conversation_id, item_id))
