"""Responses and conversations: `client.responses`, `client.conversations`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Unpack, overload

from hope_client import _response_requests as requests
from hope_client import wire
from hope_client._response_requests import Items, Order, ResponseOptions

if TYPE_CHECKING:
    from hope_client.client import Client, Stream


class Responses:
    """Answers that go on from one another: `client.responses`."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    @overload
    def create(
        self, given: str | Items, *, stream: Literal[False] = False, **options: Unpack[ResponseOptions]
    ) -> wire.ResponseObject: ...

    @overload
    def create(
        self, given: str | Items, *, stream: Literal[True], **options: Unpack[ResponseOptions]
    ) -> "Stream[wire.ResponseEvent]": ...

    def create(
        self, given: str | Items, *, stream: bool = False, **options: Unpack[ResponseOptions]
    ) -> "wire.ResponseObject | Stream[wire.ResponseEvent]":
        """Answer a text, or items; a stream gives events."""
        if stream:
            call = requests.response(given, stream=True, answer=wire.ResponseEvent, **options)
            return self._client.open(call)
        return self._client.call(
            requests.response(given, stream=False, answer=wire.ResponseObject, **options)
        )

    def get(self, response_id: str) -> wire.ResponseObject:
        """A stored response. Raises NotFoundError."""
        return self._client.call(requests.response_get(response_id))

    def delete(self, response_id: str) -> wire.ResponseDeleted:
        """Forget a response; the last one of a session takes the session with it."""
        return self._client.call(requests.response_delete(response_id))

    def input_items(
        self, response_id: str, *, after: str | None = None, limit: int = 20, order: Order = "desc"
    ) -> wire.ItemList:
        """A page of the items that the response's request brought."""
        return self._client.call(requests.response_items(response_id, after, limit, order))


class Conversations:
    """Sessions by their items: `client.conversations`."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(
        self, items: Items | None = None, *, metadata: Mapping[str, str] | None = None
    ) -> wire.Conversation:
        """A new conversation, whose first response reads `items`."""
        return self._client.call(requests.conversation_create(items, metadata))

    def get(self, conversation_id: str) -> wire.Conversation:
        """One conversation. Raises NotFoundError."""
        return self._client.call(requests.conversation_get(conversation_id))

    def update(self, conversation_id: str, *, metadata: Mapping[str, str]) -> wire.Conversation:
        """Other metadata."""
        return self._client.call(requests.conversation_update(conversation_id, metadata))

    def delete(self, conversation_id: str) -> wire.ConversationDeleted:
        """Delete the session with everything that it learned."""
        return self._client.call(requests.conversation_delete(conversation_id))

    def items(
        self, conversation_id: str, *, after: str | None = None, limit: int = 20, order: Order = "desc"
    ) -> wire.ItemList:
        """A page of the conversation's items."""
        return self._client.call(requests.conversation_items(conversation_id, after, limit, order))

    def item(self, conversation_id: str, item_id: str) -> wire.Item:
        """One item. Raises NotFoundError."""
        return self._client.call(requests.conversation_item(conversation_id, item_id)).root

    def add(self, conversation_id: str, items: Items) -> wire.ItemList:
        """Items that the next response reads."""
        return self._client.call(requests.conversation_add(conversation_id, items))

    def remove(self, conversation_id: str, item_id: str) -> wire.Conversation:
        """Take an item back that no response has read yet."""
        return self._client.call(requests.conversation_remove(conversation_id, item_id))
