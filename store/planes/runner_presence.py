"""SQL: which runners live, by their heartbeats."""

from __future__ import annotations

from typing import LiteralString

from wire.placements import LOST_AFTER_S

_LOST_AFTER: LiteralString = "15"
assert float(_LOST_AFTER) == LOST_AFTER_S, "SQL is put together from constants alone"


def lives_sql(alias: LiteralString) -> LiteralString:
    """SQL: this row of runners has a recent heartbeat and is not marked as stopped."""
    return f"({alias}.stopped_at is null and {alias}.heartbeat_at > clock_timestamp() - interval '{_LOST_AFTER} s')"


def takes_work_sql(alias: LiteralString) -> LiteralString:
    """SQL: it lives and is not drained."""
    return f"({alias}.drained_at is null and {lives_sql(alias)})"
