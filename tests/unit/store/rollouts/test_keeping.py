"""What retention keeps of rollouts, what it gives up, and what doctor says of harm."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text

from store.database import AsyncDatabase
from store.invariants import check_all
from store.rollouts import NewSample, TraceRecord, read_span, record
from store.tables import JobRow, SampleRow, TraceRow
from store.verification import verify
from tests.unit.store.conftest import DAY_S, Estate
from tests.unit.store.rollouts.conftest import agent_span, make_turns, samples


async def roll_out(estate: Estate, database: AsyncDatabase, *, length: int = 5, **facts: Any) -> uuid.UUID:
    trace_id, turns, team_id = uuid.uuid4(), make_turns(3, length=length), estate.world.team_id
    spans = [read_span(agent_span(trace_id, n, turn), trace_id) for n, turn in enumerate(turns, 1)]
    told = [NewSample(team_id, trace_id, one.turn) for one in spans if one.turn]
    both = TraceRecord(team_id, trace_id, [*samples(team_id, trace_id, turns), *told], spans)
    await record(database, estate.blobs, [both])
    age_days = facts.pop("age_days", 0)
    with estate.database.session() as session:
        row = session.get_one(TraceRow, (team_id, trace_id))
        row.last_activity_at = func.clock_timestamp() - timedelta(days=age_days)
        for name, value in facts.items():
            setattr(row, name, value)
    return trace_id


def add_job(estate: Estate, age_days: int, **facts: Any) -> uuid.UUID:
    job = JobRow(team_id=estate.world.team_id, id=uuid.uuid4(), **facts)
    job.created_at = func.clock_timestamp() - timedelta(days=age_days)
    with estate.database.session() as session:
        session.add(job)
        session.flush()
        return job.id


def ids(estate: Estate, row: Any) -> set[uuid.UUID]:
    with estate.database.session() as session:
        return set(session.scalars(select(row.id)))


def removed(removals: list[Any], what: str) -> set[str]:
    return {removal.name.partition("/")[2] for removal in removals if removal.what == what}


async def test_rollouts_are_kept_for_good_unless_the_policy_says_otherwise(
    estate: Estate, async_database: AsyncDatabase
):
    trace = await roll_out(estate, async_database, age_days=900)
    estate.collect()
    assert ids(estate, TraceRow) == {trace}


async def test_old_rollouts_go_and_pinned_ones_stay(estate: Estate, async_database: AsyncDatabase):
    job = add_job(estate, 9, pinned_at=func.clock_timestamp())
    old = await roll_out(estate, async_database, age_days=9)
    young = await roll_out(estate, async_database, age_days=7)
    pinned = await roll_out(estate, async_database, age_days=9, pinned_at=func.clock_timestamp())
    of_pinned = await roll_out(estate, async_database, age_days=9, job_id=job)
    policy = {"keep_traces_s": 8 * DAY_S}
    assert removed(estate.collect(dry_run=True, **policy), "rollout") == {old.hex}
    assert old in ids(estate, TraceRow)
    assert removed(estate.collect(**policy), "rollout") == {old.hex}
    assert ids(estate, TraceRow) == {young, pinned, of_pinned}


async def test_of_each_team_the_newest_jobs_stay(estate: Estate, async_database: AsyncDatabase):
    new, old, pinned, at_work = (
        add_job(estate, 1), add_job(estate, 2), add_job(estate, 3, pinned_at=func.clock_timestamp()), add_job(estate, 4)
    )  # fmt: skip
    jobs = {job: await roll_out(estate, async_database, job_id=job, age_days=1) for job in (new, old, pinned)}
    jobs[at_work] = await roll_out(estate, async_database, job_id=at_work)
    alone = await roll_out(estate, async_database, age_days=9)
    for dry_run in (True, False):
        found = estate.collect(dry_run=dry_run, keep_last_jobs=1)
        assert (removed(found, "job"), removed(found, "rollout")) == ({old.hex}, {jobs[old].hex})
    assert ids(estate, JobRow) == {new, pinned, at_work}
    assert ids(estate, TraceRow) == {jobs[new], jobs[pinned], jobs[at_work], alone}


async def test_blobs_go_with_their_rollout_and_no_sooner(
    estate: Estate, async_database: AsyncDatabase, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("store.rollouts.samples.INLINE_BYTES", 1024)
    kept = await roll_out(estate, async_database, length=600)
    gone = await roll_out(estate, async_database, length=580)
    estate.age_files()
    assert not removed(estate.collect(), "blob")
    assert verify(estate.database, estate.checkpoints, estate.blobs) == []
    num_blobs = len(list(estate.blobs.stored()))
    with estate.database.session() as session:
        session.execute(text("delete from traces where id = :id"), {"id": gone})
    collected = [removal for removal in estate.collect() if removal.what == "blob"]
    assert 0 < len(collected) < num_blobs
    assert verify(estate.database, estate.checkpoints, estate.blobs) == []
    assert ids(estate, TraceRow) == {kept}


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        ("delete from samples where parent_digest is null", "samples can be put together"),
        ("update samples set items_shared = 99 where items_shared > 0", "samples can be put together"),
        (
            "delete from samples where prompt_length = (select max(prompt_length) from samples)",
            "steps have their samples",
        ),
        ("update traces set num_turns = num_turns + 1", "traces count what is recorded of them"),
        ("update traces set num_output_tokens = 0", "traces count what is recorded of them"),
    ],
)
async def test_harm_to_a_record_is_found(harm: str, name: str, estate: Estate, async_database: AsyncDatabase):
    await roll_out(estate, async_database)
    with estate.database.session() as session:
        assert check_all(session) == []
        session.execute(text(harm))
        assert name in [violation.name for violation in check_all(session)]
        assert session.scalar(select(func.count()).select_from(SampleRow)) is not None
