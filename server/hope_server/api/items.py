"""Pages of items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Depends, Query

from hope_client.wire import Item, ItemList
from hope_server.errors import ResponseNotFound

DEFAULT_ITEMS = 20
MAX_ITEMS = 100


class Paging:
    """Which items a request asks for: up to `limit` behind the item `after`, the newest first by default."""

    def __init__(
        self,
        after: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_ITEMS)] = DEFAULT_ITEMS,
        order: Literal["asc", "desc"] = "desc",
    ) -> None:
        self._after, self._limit, self._order = after, limit, order

    def page(self, items: Sequence[Item]) -> ItemList:
        """Of `items`, oldest first. Raises ResponseNotFound."""
        wanted = list(items) if self._order == "asc" else list(reversed(items))
        if self._after is not None:
            wanted = wanted[wanted.index(item_of(wanted, self._after)) + 1 :]
        return item_list(wanted[: self._limit], has_more=len(wanted) > self._limit)


PagingOf = Annotated[Paging, Depends()]


def item_list(items: Sequence[Item], *, has_more: bool = False) -> ItemList:
    """These items, as a list on the wire."""
    return ItemList(
        data=list(items),
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
        has_more=has_more,
    )


def item_of(items: Sequence[Item], identity: str) -> Item:
    """The item of that id. Raises ResponseNotFound."""
    for item in items:
        if item.id == identity:
            return item
    raise ResponseNotFound("there is no item with this id", code="item_not_found")
