"""Requests of responses and conversations."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict, Unpack
from urllib.parse import quote

from pydantic import RootModel

from hope_client import wire
from hope_client._call import Call, T, build, path_of

Order = Literal["asc", "desc"]
Items = Sequence[wire.InputItem | Mapping[str, object]]


class ResponseOptions(TypedDict, total=False):
    """Options of a response; what is left out takes the server's default.

    `previous_response_id` goes on from exactly where that response ended, `conversation` is the next turn of
    that conversation. With `store` false nothing is kept. With `learn="off"` no token of the turn teaches.
    """

    model: str | None
    instructions: str | None
    previous_response_id: str | None
    conversation: str | None
    store: bool
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    top_logprobs: int | None
    tools: Sequence[wire.FunctionTool | Mapping[str, object]] | None
    tool_choice: str | Mapping[str, object] | None
    parallel_tool_calls: bool | None
    text: wire.TextConfig | Mapping[str, object] | None
    metadata: Mapping[str, str] | None
    learn: wire.Learn | None


def response(
    given: str | Items, *, stream: bool, answer: type[T], **options: Unpack[ResponseOptions]
) -> Call[T]:
    """POST /v1/responses. It makes a session or adds to one, so that it is sent again only if not begun."""
    content = given if isinstance(given, str) else list(given)
    fields = {**options, "stream": True} if stream else dict(options)
    body = build(wire.ResponseRequest, input=content, **fields).to_wire()
    headers = {wire.IDEMPOTENCY_HEADER: str(uuid.uuid4())}
    return Call(
        "POST", "/v1/responses", answer, repeatable=False, streamed=stream, body=body, headers=headers
    )


def response_get(response_id: str) -> Call[wire.ResponseObject]:
    """GET /v1/responses/{id}."""
    return Call("GET", path_of("responses", response_id), wire.ResponseObject, repeatable=True)


def response_delete(response_id: str) -> Call[wire.ResponseDeleted]:
    """DELETE /v1/responses/{id}."""
    return Call("DELETE", path_of("responses", response_id), wire.ResponseDeleted, repeatable=False)


def response_items(response_id: str, after: str | None, limit: int, order: Order) -> Call[wire.ItemList]:
    """GET /v1/responses/{id}/input_items."""
    path = f"{path_of('responses', response_id)}/input_items"
    return Call("GET", path, wire.ItemList, repeatable=True, params=_page(after, limit, order))


def conversation_create(items: Items | None, metadata: Mapping[str, str] | None) -> Call[wire.Conversation]:
    """POST /v1/conversations."""
    given = None if items is None else list(items)
    body = build(wire.ConversationCreate, items=given, metadata=metadata).to_wire()
    return Call("POST", "/v1/conversations", wire.Conversation, repeatable=False, body=body)


def conversation_get(conversation_id: str) -> Call[wire.Conversation]:
    """GET /v1/conversations/{id}."""
    return Call("GET", path_of("conversations", conversation_id), wire.Conversation, repeatable=True)


def conversation_update(conversation_id: str, metadata: Mapping[str, str]) -> Call[wire.Conversation]:
    """POST /v1/conversations/{id}."""
    body = build(wire.ConversationUpdate, metadata=dict(metadata)).to_wire()
    path = path_of("conversations", conversation_id)
    return Call("POST", path, wire.Conversation, repeatable=True, body=body)


def conversation_delete(conversation_id: str) -> Call[wire.ConversationDeleted]:
    """DELETE /v1/conversations/{id}."""
    path = path_of("conversations", conversation_id)
    return Call("DELETE", path, wire.ConversationDeleted, repeatable=False)


def conversation_items(
    conversation_id: str, after: str | None, limit: int, order: Order
) -> Call[wire.ItemList]:
    """GET /v1/conversations/{id}/items."""
    path = f"{path_of('conversations', conversation_id)}/items"
    return Call("GET", path, wire.ItemList, repeatable=True, params=_page(after, limit, order))


class OneItem(RootModel[wire.Item]):
    """One item of a conversation."""


def conversation_item(conversation_id: str, item_id: str) -> Call[OneItem]:
    """GET /v1/conversations/{id}/items/{item}."""
    path = f"{path_of('conversations', conversation_id)}/items/{quote(item_id, safe='')}"
    return Call("GET", path, OneItem, repeatable=True)


def conversation_add(conversation_id: str, items: Items) -> Call[wire.ItemList]:
    """POST /v1/conversations/{id}/items."""
    body = build(wire.ConversationItemsCreate, items=list(items)).to_wire()
    path = f"{path_of('conversations', conversation_id)}/items"
    return Call("POST", path, wire.ItemList, repeatable=False, body=body)


def conversation_remove(conversation_id: str, item_id: str) -> Call[wire.Conversation]:
    """DELETE /v1/conversations/{id}/items/{item}."""
    path = f"{path_of('conversations', conversation_id)}/items/{quote(item_id, safe='')}"
    return Call("DELETE", path, wire.Conversation, repeatable=False)


def _page(after: str | None, limit: int, order: Order) -> dict[str, str | int]:
    page: dict[str, str | int] = {"limit": limit, "order": order}
    return page if after is None else {**page, "after": after}
