"""Pages of items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hope_client.wire import Item, ItemList
from hope_server.errors import ResponseNotFound

DEFAULT_ITEMS = 20
MAX_ITEMS = 100
Order = Literal["asc", "desc"]


def item_page(items: Sequence[Item], *, after: str | None, limit: int, order: Order) -> ItemList:
    """Up to `limit` of `items` (oldest first) behind the item `after`. Raises ResponseNotFound."""
    wanted = list(items) if order == "asc" else list(reversed(items))
    if after is not None:
        wanted = wanted[wanted.index(item_of(wanted, after)) + 1 :]
    page = wanted[:limit]
    return ItemList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(wanted) > limit,
    )


def item_of(items: Sequence[Item], identity: str) -> Item:
    """The item of that id. Raises ResponseNotFound."""
    for item in items:
        if item.id == identity:
            return item
    raise ResponseNotFound("there is no item with this id", code="item_not_found")
