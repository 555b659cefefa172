"""Whom a promotion waits for, and which samplers are out of rotation, on a real database."""

from __future__ import annotations

from io import StringIO
from uuid import UUID

import pytest
from rich.console import Console
from sqlalchemy import text, update

from cli.terminal.status_view import missing_table
from store.database import AsyncDatabase, Database
from store.planes.adapters import report_adapter
from store.planes.promotion import LATE_AFTER_S, Votes, missing_adapters, promotion_votes, promotion_votes_async
from store.planes.promotion_policy import PromotionPolicy
from store.planes.registration import register_sampler, say_goodbye
from store.planes.serving import samplers_serving
from store.tables import ModelRow, SamplerRow
from tests.unit.conftest import World
from wire.adapter_names import base_adapter_name

ONE, QUORUM, ALL = PromotionPolicy.ONE, PromotionPolicy.QUORUM, PromotionPolicy.ALL
X = "hw-x"


@pytest.mark.parametrize(
    ("policy", "votes", "enough"),
    [
        (ONE, Votes(live=3, loaded=0), False),
        (ONE, Votes(live=3, loaded=1), True),
        (QUORUM, Votes(live=3, loaded=1), False),
        (QUORUM, Votes(live=3, loaded=2), True),
        (QUORUM, Votes(live=4, loaded=2), False),
        (QUORUM, Votes(live=2, loaded=1), False),
        (ALL, Votes(live=3, loaded=2), False),
        (ALL, Votes(live=3, loaded=3), True),
        (ALL, Votes(live=3, loaded=2, refusals=["broken"]), True),
        (ALL, Votes(live=3, loaded=1, refusals=["broken"]), False),
        (ALL, Votes(live=3, loaded=2, late=1), True),
        (QUORUM, Votes(live=5, loaded=1, refusals=["a", "b"], late=2), True),
        *((policy, Votes(live=3, loaded=0, refusals=["a", "b"], late=1), False) for policy in PromotionPolicy),
    ],
)
def test_a_policy_says_for_whom_to_wait_and_never_that_nobody_needs_to_hold_it(policy, votes, enough):
    assert votes.suffice(policy) is enough


@pytest.fixture
def samplers(database: Database, world: World) -> list[UUID]:
    """Three, which hold the base."""
    with database.session() as session:
        ids = [register_sampler(session, world.base_id, f"http://127.0.0.1:{i}", "local") for i in range(3)]
    for sampler_id in ids:
        report(database, sampler_id, base_adapter_name(world.base_id))
    return ids


def report(database: Database, sampler_id: UUID, adapter: str, error: str | None = None) -> None:
    with database.connection() as connection:
        report_adapter(connection, sampler_id, adapter, error)


def votes(database: Database, world: World, policy: PromotionPolicy, adapter: str = X) -> Votes:
    with database.connection() as connection:
        return promotion_votes(connection, policy, world.base_id, adapter)


def fall_silent_for(database: Database, sampler_id: UUID, seconds: float) -> None:
    with database.session() as session:
        statement = "update samplers set heartbeat_at = clock_timestamp() - make_interval(secs => :s) where id = :id"
        session.execute(text(statement), {"s": seconds, "id": sampler_id})


def set_head(database: Database, world: World, checkpoint_id: UUID, age_s: float) -> None:
    with database.session() as session:
        aged = "update checkpoints set created_at = clock_timestamp() - make_interval(secs => :s) where id = :id"
        session.execute(text(aged), {"s": age_s, "id": checkpoint_id})
        older = "update samplers set started_at = clock_timestamp() - make_interval(secs => 86400)"
        session.execute(text(older))
        session.execute(update(ModelRow).where(ModelRow.id == world.model_id).values(head_checkpoint_id=checkpoint_id))


async def test_only_live_samplers_vote_and_one_that_falls_silent_meanwhile_does_not_any_more(
    database: Database, async_database: AsyncDatabase, world: World, samplers: list[UUID]
):
    holding, refusing, silent = samplers
    report(database, holding, X)
    report(database, refusing, X, "bad rank")
    assert votes(database, world, ALL) == Votes(3, 1, ["bad rank"])
    assert not votes(database, world, ALL).suffice(ALL)
    fall_silent_for(database, silent, 60)
    assert votes(database, world, ALL) == Votes(2, 1, ["bad rank"])
    assert votes(database, world, ALL).suffice(ALL)
    async with async_database.connection() as connection:
        assert await promotion_votes_async(connection, ALL, world.base_id, X) == Votes(2, 1, ["bad rank"])
    with database.session() as session:
        say_goodbye(session, SamplerRow, holding)
    assert votes(database, world, ALL) == Votes(1, 0, ["bad rank"])
    assert votes(database, world, ALL).is_refused


async def test_a_sampler_that_lags_behind_a_head_is_named_not_waited_for_and_not_asked(
    database: Database, async_database: AsyncDatabase, world: World, samplers: list[UUID], add_checkpoint
):
    head = add_checkpoint()
    adapter = f"hw-{head.hex}"
    set_head(database, world, head, age_s=LATE_AFTER_S + 5)
    quick, refusing, lagging = samplers
    report(database, quick, adapter)
    report(database, refusing, adapter, "out of memory")
    with database.connection() as connection:
        missing = {entry.sampler_id: entry for entry in missing_adapters(connection, world.base_id)}
    assert set(missing) == {refusing, lagging}
    assert all(entry.is_out_of_rotation and entry.model == "fork" for entry in missing.values())
    assert missing[refusing].error == "out of memory"
    assert missing[lagging].late_s > LATE_AFTER_S
    async with async_database.connection() as connection:
        assert [s.id for s in await samplers_serving(connection, world.base_id, adapter)] == [quick]
    # The next checkpoint waits for neither.
    report(database, quick, X)
    assert votes(database, world, ALL) == Votes(3, 1, [], late=2)
    assert votes(database, world, ALL).suffice(ALL)
    report(database, lagging, adapter)
    assert votes(database, world, ALL) == Votes(3, 1, [], late=1), "who has caught up is waited for again"
    assert not votes(database, world, ALL).suffice(ALL)


def test_a_sampler_that_is_loading_a_new_head_is_not_late_yet(
    database: Database, world: World, samplers: list[UUID], add_checkpoint
):
    set_head(database, world, add_checkpoint(), age_s=1)
    with database.connection() as connection:
        missing = missing_adapters(connection)
    assert len(missing) == 3
    assert not any(entry.is_out_of_rotation for entry in missing)
    report(database, samplers[0], X)
    assert votes(database, world, ALL) == Votes(3, 1, [], late=0)


def test_status_names_who_is_out_of_rotation_for_what_and_why(
    database: Database, world: World, samplers: list[UUID], add_checkpoint
):
    head = add_checkpoint()
    set_head(database, world, head, age_s=LATE_AFTER_S + 5)
    report(database, samplers[0], f"hw-{head.hex}")
    report(database, samplers[1], f"hw-{head.hex}", "out of memory")
    with database.connection() as connection:
        listed = missing_adapters(connection)
    shown = Console(width=200, file=StringIO())
    shown.print(missing_table(listed))
    rows = [line for line in shown.file.getvalue().splitlines() if "out of rotation" in line]
    assert len(rows) == 2
    assert all(f"0001-{head.hex[:8]}" in row and "fork" in row for row in rows)
    assert "out of memory" in rows[0]
    assert "missing for" in rows[1]
