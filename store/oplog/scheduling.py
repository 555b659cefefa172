"""How trainers of a base share its models: which model is next for one of them, and when. (`turns`: which team is.)

A model that nobody holds goes to the first trainer that is free. It stays there, where its weights and gradients are
in memory, as long as its holder works off its operations. One that has waited for PATIENCE_S while its holder works
on another model goes to a trainer that has nothing to do. A model that has just moved stays for TENURE_S, for each move
costs a load and a replay: with more busy models than trainers they would otherwise go round in circles.

PostgreSQL's clock may be set back. What is then dated in the future happened long ago, and a pause that would end later
than any pause lasts is over: nothing waits until that clock is right again.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from sqlalchemy import ColumnElement, literal_column
from sqlalchemy.orm import InstrumentedAttribute

from store.database import Connection
from store.oplog.conditions import UNACKNOWLEDGED
from store.oplog.turns import BUSY_MODELS, NEXT_START_TAG

PATIENCE_S = 1.0
TENURE_S = 10.0
MAX_PAUSE_S = 30.0
"""Of an operation that is put off (`store.oplog.deferring`)."""

# A model's first open operation `o`, the operation `b` before it, and the lease `l`, if there is one.
_FIRST_OPEN_OF = """
    lateral (
        select * from operations q where q.model_id = {model_id} and q.state in ('queued', 'running')
        order by q.sequence limit 1
    ) o
    left join operations b on b.model_id = o.model_id and b.sequence = o.sequence - 1
    left join model_leases l on l.model_id = o.model_id
"""

_RETRY_AT = f"case when o.retry_at < statement_timestamp() + interval '{MAX_PAUSE_S + 1} seconds' then o.retry_at end"


def _past(at: LiteralString) -> LiteralString:
    return f"case when {at} <= statement_timestamp() then {at} end"


# When a trainer other than the holder may take the model. `greatest` and `least` pass over nulls.
_FREE_AT = f"""
    case when o.state = 'running' then l.expires_at else least(
        l.expires_at,
        coalesce(
            greatest(
                greatest({_past("o.created_at")}, {_past("b.finished_at")}, {_RETRY_AT})
                    + interval '{PATIENCE_S} seconds',
                {_past("l.taken_at")} + interval '{TENURE_S} seconds'
            ),
            statement_timestamp()
        )
    ) end
"""

# Somebody waits for an operation of the model, or has a key to ask for it again.
_IS_AWAITED = f"""
    exists (
        select from operations o
        where o.model_id = first.model_id and o.state in ('queued', 'running') and not ({UNACKNOWLEDGED})
    )
"""

_NEXT = f"""
    {BUSY_MODELS}, first as (
        select
            o.model_id, o.created_at, {NEXT_START_TAG} as start_tag, count(*) over () as num_models,
            greatest(
                case when l.trainer_id <> %(trainer_id)s then {_FREE_AT} end,
                {_RETRY_AT},
                statement_timestamp()
            ) as free_at
        from busy join models m on m.id = busy.model_id and m.base_id = %(base_id)s and m.id <> all(%(without)s::uuid[])
        cross join {_FIRST_OPEN_OF.format(model_id="busy.model_id")}
        left join training_turns t on t.base_id = m.base_id and t.team_id = m.team_id
        where not exists (select from trainers t where t.id = %(trainer_id)s and t.drained_at is not null)
    )
    select model_id, extract(epoch from free_at - statement_timestamp())::float8, is_awaited, num_models
    from (select *, num_models = 1 or {_IS_AWAITED} as is_awaited from first) first
    order by free_at, not is_awaited, start_tag, created_at
    limit 1
"""


@dataclass(frozen=True, slots=True)
class NextModel:
    """A model with work, and in how many seconds this trainer may take it (0: now).

    is_awaited: false where other models have work too, and nobody waits for this one's. num_models: that have work,
    it included.
    """

    model_id: UUID
    free_in_s: float
    is_awaited: bool = True
    num_models: int = 1


def next_model(
    connection: Connection, base_id: UUID, trainer_id: UUID, without: Collection[UUID] = ()
) -> NextModel | None:
    """Of the models that this trainer holds or may take, the one whose turn it is; none of those `without`, whose first
    operation this trainer is carrying out.

    First those for which somebody waits; of these, one of the team whose turn it is by its tokens; of its models, the
    one whose first operation waits longest.

    If there is none, the one that it may take first, if nothing happens until then; None without open operations, and
    for a trainer that is drained.
    """
    values = {"base_id": base_id, "trainer_id": trainer_id, "without": list(without)}
    row = connection.execute(_NEXT.encode(), values).fetchone()
    return NextModel(*row) if row else None


def is_starved(model_id: InstrumentedAttribute[UUID]) -> ColumnElement[bool]:
    """SQL: the holder of this model's lease leaves an operation waiting for too long."""
    of_model = _FIRST_OPEN_OF.format(model_id=f"{model_id.class_.__tablename__}.model_id")
    waits = f"select {_FREE_AT} from {of_model}"
    return literal_column(f"coalesce(({waits}) < clock_timestamp(), false)")
