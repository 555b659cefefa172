"""Long lists page by page. A cursor is the place of the last row that was listed, so that rows which come and go
meanwhile neither repeat nor hide others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import Row, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from wire.cursors import make_cursor, parse_cursor

ItemT = TypeVar("ItemT")
_Place = Sequence[InstrumentedAttribute[Any]]


class Page(BaseModel, Generic[ItemT]):
    """Some of a list; `next_cursor` null: there is no more."""

    items: list[ItemT]
    next_cursor: str | None


async def page_of(
    session: AsyncSession,
    query: Select[*tuple[Any, ...]],
    place: _Place,
    cursor: str | None,
    limit: int,
    *,
    newest_first: bool = False,
) -> tuple[Sequence[Row[*tuple[Any, ...]]], str | None]:
    """Rows of the query in the order of `place`, whose values together are unique, and the cursor of what follows
    (None: nothing). The first entity of the query has the columns of `place`. Raises InvalidRequest for a cursor of
    another list."""
    if cursor is not None:
        after = tuple_(*parse_cursor(cursor, *(column.type.python_type for column in place)))
        query = query.where(tuple_(*place) < after if newest_first else tuple_(*place) > after)
    order = [column.desc() if newest_first else column for column in place]
    rows = (await session.execute(query.order_by(*order).limit(limit + 1))).all()
    if len(rows) <= limit:
        return rows, None
    rows = rows[:limit]
    return rows, make_cursor(*(getattr(rows[-1][0], column.key) for column in place))
