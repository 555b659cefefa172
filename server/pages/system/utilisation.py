"""How busy trainers are: the share of the last minutes in which one of their operations was under way."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Float, Uuid, column, text

OVER_MIN = 10

# By the index on (model, sequence): the newest operations of each model that a trainer holds or held last.
_BUSY = text("""
    select l.trainer_id, sum(extract(epoch from
        coalesce(o.finished_at, clock_timestamp()) - greatest(o.started_at, clock_timestamp() - :over))) as busy_s
    from model_leases l
    join lateral (
        select started_at, finished_at from operations
        where model_id = l.model_id and sequence is not null order by sequence desc limit 200
    ) o on o.started_at is not null and coalesce(o.finished_at, clock_timestamp()) > clock_timestamp() - :over
    where l.trainer_id is not null
    group by l.trainer_id
""").bindparams(over=timedelta(minutes=OVER_MIN))
BUSY = _BUSY.columns(column("trainer_id", Uuid()), column("busy_s", Float())).subquery("busy")
"""`busy_s` by `trainer_id`; those that did nothing are left out."""


def busy_share(busy_s: float | None) -> float:
    """From 0 to 1."""
    return min(1.0, (busy_s or 0.0) / (60 * OVER_MIN))
