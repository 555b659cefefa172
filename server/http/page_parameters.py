"""What routes with long lists take from the query. (Apart from `server.values.paging`: commands know no FastAPI.)"""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

LimitParam = Annotated[int, Query(ge=1, le=500, description="How many rows at most")]
CursorParam = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before")]

DEFAULT_LIMIT = 50
