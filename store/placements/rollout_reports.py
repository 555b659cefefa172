"""What runners and agents say most often of a rollout, in one statement each: its environment is ready, it was entered,
it exits, it has ended. Each finds out in itself whether the runner holds the attempt; nothing is changed where not."""

from __future__ import annotations

from uuid import UUID

from psycopg.types.json import Jsonb

from store.database import AsyncConnection
from store.notify import PLACEMENT_CHANGED

_OWN_RUNNER = """
    p.runner_id = %(runner_id)s and exists (
        select from runners r join api_keys k on k.id = r.key_id
        where r.id = p.runner_id and k.team_id = %(team_id)s
    )
"""

_READY = f"""
    update placements p set ready_at = coalesce(ready_at, clock_timestamp())
    where id = %(id)s and attempt = %(attempt)s and state = 'running' and {_OWN_RUNNER}
    returning pg_notify(%(changed)s, replace(id::text, '-', ''))
"""  # noqa: S608 - put together from constants

# The placement is locked before the trace, and stays as it is until the transaction ends.
_HELD_BY_AGENT = """
    with held as (
        select p.id, h.team_id, h.trace_id
        from hosted_rollouts h join placements p on p.id = h.placement_id
        where h.team_id = %(team_id)s and h.trace_id = %(trace_id)s and p.runner_id = %(runner_id)s
            and p.state = 'running' and p.cancelled_at is null
        for share of p
    )
"""
_ENTER = f"""
    {_HELD_BY_AGENT}
    update traces t set entered_at = clock_timestamp(), last_activity_at = clock_timestamp()
    from held where t.team_id = held.team_id and t.id = held.trace_id
"""  # noqa: S608
_EXIT = f"""
    {_HELD_BY_AGENT}
    update hosted_rollouts h set reported_exit = %(said)s from held where h.placement_id = held.id
"""  # noqa: S608

# What the exit left out stays as it was.
_END = f"""
    with held as (
        select p.id, h.team_id, h.trace_id, h.reported_exit as said
        from placements p join hosted_rollouts h on h.placement_id = p.id
        where p.id = %(id)s and p.attempt = %(attempt)s and p.state = 'running' and p.cancelled_at is null
            and h.reported_exit is not null and {_OWN_RUNNER}
        for update of p
    ), traced as (
        update traces t set
            status = said->>'status',
            reward = coalesce((said->>'reward')::float8, t.reward),
            error = coalesce(said->>'error', t.error),
            stop_reason = coalesce(said->>'stop_reason', t.stop_reason),
            evaluation_result = coalesce(said->'evaluation_result', t.evaluation_result),
            extra = nullif(
                coalesce(t.extra, '{{}}') || said
                    - array['status', 'reward', 'error', 'stop_reason', 'evaluation_result'], '{{}}'
            ),
            timed_out_at = null,
            exited_at = clock_timestamp(),
            last_activity_at = clock_timestamp()
        from held where t.team_id = held.team_id and t.id = held.trace_id and t.status is null
    ), ended as (
        update placements p set state = 'ended', outcome = 'completed', ended_at = clock_timestamp()
        from held where p.id = held.id returning p.id
    )
    select pg_notify(%(changed)s, replace(id::text, '-', '')) from ended
"""  # noqa: S608


async def report_ready(
    connection: AsyncConnection, team_id: UUID, runner_id: UUID, placement_id: UUID, attempt: int
) -> bool:
    """The environment of any placement answers. Whether the runner, registered by this team's keys, holds it."""
    asked = _of_runner(team_id, runner_id, placement_id, attempt)
    return (await connection.execute(_READY.encode(), asked)).rowcount > 0


async def report_enter(connection: AsyncConnection, team_id: UUID, runner_id: UUID, trace_id: UUID) -> bool:
    """The agent begins. Whether its runner holds the rollout."""
    asked = {"team_id": team_id, "runner_id": runner_id, "trace_id": trace_id}
    return (await connection.execute(_ENTER.encode(), asked)).rowcount > 0


async def report_exit(
    connection: AsyncConnection, team_id: UUID, runner_id: UUID, trace_id: UUID, said: dict[str, object]
) -> bool:
    """What the agent says at its exit is kept until its runner ends the placement. Whether that holds the rollout."""
    asked = {"team_id": team_id, "runner_id": runner_id, "trace_id": trace_id, "said": Jsonb(said)}
    return (await connection.execute(_EXIT.encode(), asked)).rowcount > 0


async def report_completed(
    connection: AsyncConnection, team_id: UUID, runner_id: UUID, placement_id: UUID, attempt: int
) -> bool:
    """A rollout is over, and its exit becomes its trace's. False where that is not all: it was cancelled, or has no
    exit, or is no rollout, or not the runner's."""
    asked = _of_runner(team_id, runner_id, placement_id, attempt)
    return (await connection.execute(_END.encode(), asked)).rowcount > 0


def _of_runner(team_id: UUID, runner_id: UUID, placement_id: UUID, attempt: int) -> dict[str, object]:
    return {
        "team_id": team_id,
        "runner_id": runner_id,
        "id": placement_id,
        "attempt": attempt,
        "changed": PLACEMENT_CHANGED,
    }
