"""What hangs on a model, counted before somebody deletes it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.types import LiveRun, ModelContents
from store.model_removal import NEEDED
from store.run_states import IS_LIVE
from store.tables import ModelRow

# ruff: noqa: S608 - put together from constants

_MOST_NAMED = 20

# As `store.usage` counts them.
_BYTES = """
    select coalesce(sum((f.value ->> 'size')::bigint), 0)
    from checkpoints c cross join lateral jsonb_each(coalesce(c.manifest -> 'files', '{}')) f
    where c.model_id = :model_id and c.files_id = c.id and c.status = 'committed' and c.files_removed_at is null
        and c.is_saved and (c.state_removed_at is null or f.key not like 'state/%')
"""
_COUNTS = text(f"""
    select
        (select count(*) from checkpoints c where c.model_id = :model_id and c.status = 'committed') as num_checkpoints,
        ({_BYTES}) as num_bytes,
        ({_BYTES} and {NEEDED}) as num_bytes_kept,
        (select count(*) from runs r where r.model_id = :model_id) as num_runs,
        (select count(*) from traces t where t.team_id = :team_id and t.model_id = :model_id) as num_rollouts,
        (select count(*) from checkpoint_names n where n.model_id = :model_id) as num_paths,
        (
            select count(*) from checkpoint_names n where n.model_id = :model_id and n.published_at is not null
        ) as num_published,
        (
            select count(*) from sampling_sessions p join client_sessions s on s.id = p.session_id
            where p.model_id = :model_id and s.finished_at is null
                and s.heartbeat_at > clock_timestamp() - interval '1 day'
        ) as num_open_samplers,
        (
            select count(*) from operations o where o.model_id = :model_id and o.state in ('held', 'queued', 'running')
        ) as num_calls
""")
_FORKS = text("""
    select distinct m.slug, m.team_id = :team_id as is_own, m.created_at, m.id
    from checkpoints r join models m on m.id = r.model_id
    where r.files_model_id = :model_id and r.files_id <> r.id and r.model_id <> :model_id and r.status = 'committed'
        and m.removed_at is null
    order by m.created_at, m.id
""")
_LIVE_RUNS = text(f"select r.id, r.state from runs r where r.model_id = :model_id and {IS_LIVE}")
_PINNED = text(
    "select name from checkpoints where model_id = :model_id and pinned_at is not null order by name limit 3"
)
_IS_RUNNING = text("select exists (select from operations where model_id = :model_id and state = 'running')")


async def contents_of(session: AsyncSession, model: ModelRow) -> ModelContents:
    """What a model has, and what keeps it from being deleted."""
    this = {"model_id": model.id, "team_id": model.team_id}
    counts: dict[str, Any] = dict((await session.execute(_COUNTS, this)).mappings().one())
    forks = (await session.execute(_FORKS, this)).all()
    own = [row.slug for row in forks if row.is_own]
    runs = [LiveRun(id=str(row.id), state=row.state) for row in await session.execute(_LIVE_RUNS, this)]
    return ModelContents(
        model=model.slug,
        num_forks=len(own),
        forks=own[:_MOST_NAMED],
        num_forks_of_others=len(forks) - len(own),
        live_runs=runs,
        blockers=await _blockers(session, model, runs),
        **counts,
    )


async def _blockers(session: AsyncSession, model: ModelRow, runs: list[LiveRun]) -> list[str]:
    this, found = {"model_id": model.id}, list[str]()
    found += [f"the run {run.id} is {run.state}: cancel it, or wait for its end" for run in runs]
    if pinned := list(await session.scalars(_PINNED, this)):
        found.append(f"an operator pinned {', '.join(pinned)}: 'headway unpin {model.slug} CHECKPOINT' lets go of it")
    if await session.scalar(_IS_RUNNING, this):
        found.append("a trainer carries out one of its training calls: wait for its end")
    return found
