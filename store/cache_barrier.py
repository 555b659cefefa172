"""Read-your-writes: whoever changes what server processes cache gets no answer before every cached answer has expired.

Server processes keep what chats look up (`store.planes.serving`) for 10 ms. A session of `AsyncDatabase` that has
written to one of `CACHED_TABLES` waits that long after its commit, when it holds neither its connection nor a lock, and
so does the result of an operation that moved a head (`store.oplog.results`); in a server only until all others have
acknowledged it (`store.cache_acknowledgements`). No route and no command has to ask for it.
Statements on the driver's own connections are not seen: `tests/unit/store/test_cache_barrier.py` lists those that write
to these tables.
"""

from __future__ import annotations

import asyncio
import re
import time
from functools import lru_cache
from typing import Any

from sqlalchemy import TextClause, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session

CACHE_LIFETIME_S = 0.010
_MORE_S = 0.001
"""No two clocks run equally fast."""

CACHED_TABLES = frozenset({"api_keys", "teams", "models", "checkpoints", "samplers", "sampler_adapters"})
"""What lookups read. But for `adapter_wants`: of these an older answer has a server ask for the adapter once more."""

_CHANGED = "has_changed_cached"
_WRITES = re.compile(rf"\b(?:update|insert\s+into|delete\s+from)\s+(?:{'|'.join(sorted(CACHED_TABLES))})\b", re.I)


def caches_expire_at() -> float:
    """From when on, by the monotonic clock, no server process can use an answer from before this call."""
    return time.monotonic() + CACHE_LIFETIME_S + _MORE_S


async def wait_until_caches_expire(until: float | None = None) -> None:
    """Return when no server process can use an answer from before this call, or at that `caches_expire_at`."""
    until = until or caches_expire_at()
    while (left_s := until - time.monotonic()) > 0:  # noqa: ASYNC110 - a busy loop may wake its sleepers too early
        await asyncio.sleep(left_s)


class WatchedSession(Session):
    """Notes whether it has written to one of the cached tables."""


def has_changed_cached(session: AsyncSession) -> bool:
    """Whether this session, whose class is `WatchedSession`, has written to one of the cached tables."""
    return _CHANGED in session.info


def changes_cached(sql: str) -> bool:
    """Whether a statement writes to one of the cached tables."""
    return _WRITES.search(sql) is not None


_text_changes_cached = lru_cache(maxsize=512)(changes_cached)


@event.listens_for(WatchedSession, "after_flush")
def _note_rows(session: WatchedSession, _: Any) -> None:
    changed = [*session.new, *session.deleted, *filter(session.is_modified, session.dirty)]
    if any(row.__tablename__ in CACHED_TABLES for row in changed):
        session.info[_CHANGED] = True


@event.listens_for(WatchedSession, "do_orm_execute")
def _note_statement(state: ORMExecuteState) -> None:
    statement: Any = state.statement
    if isinstance(statement, TextClause):
        changes = _text_changes_cached(statement.text)
    else:
        changes = not state.is_select and getattr(statement, "is_dml", False) and statement.table.name in CACHED_TABLES
    if changes:
        state.session.info[_CHANGED] = True
