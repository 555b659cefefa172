"""Long lists page by page. A cursor is the place of the last row that was listed, so that rows which come and go
meanwhile neither repeat nor hide others."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from wire.errors import InvalidRequest

_Place = Sequence[InstrumentedAttribute[Any]]


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
        after = tuple_(*_decoded(cursor, place))
        query = query.where(tuple_(*place) < after if newest_first else tuple_(*place) > after)
    order = [column.desc() if newest_first else column for column in place]
    rows = (await session.execute(query.order_by(*order).limit(limit + 1))).all()
    if len(rows) <= limit:
        return rows, None
    rows = rows[:limit]
    return rows, _encoded([getattr(rows[-1][0], column.key) for column in place])


def _encoded(values: Sequence[Any]) -> str:
    text = json.dumps([value if isinstance(value, int) else str(value) for value in values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decoded(cursor: str, place: _Place) -> list[Any]:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values: Any = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(values, list) or len(values) != len(place):
            raise ValueError(cursor)
        return [_parsed(value, column) for value, column in zip(values, place, strict=True)]
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        raise InvalidRequest("cursor: not one of this list; send a `next_cursor` as it came, or none") from error


def _parsed(value: Any, column: InstrumentedAttribute[Any]) -> Any:
    kind = column.type.python_type
    if kind is int:
        if not isinstance(value, int) or not 0 <= value < 2**63:
            raise ValueError(value)
        return value
    if kind is datetime:
        parsed = datetime.fromisoformat(value)
        if parsed.tzinfo is None or not 1970 <= parsed.year <= 9000:
            raise ValueError(value)
        return parsed
    return UUID(value)
