from __future__ import annotations

import pytest
from sqlalchemy import update

from store.database import AsyncDatabase, Database
from store.planes.adapters import (
    base_adapter_name,
    forget_adapter,
    report_adapter,
    samplers_holding,
    want_checkpoint,
    wanted_adapters,
)
from store.planes.registration import register_sampler, say_goodbye
from store.tables import ModelRow, SamplerRow
from tests.unit.conftest import World


def wanted_names(database: Database, world: World) -> set[str]:
    with database.connection() as connection:
        return {a.name for a in wanted_adapters(connection, world.base_id)}


@pytest.fixture
def sampler_id(database: Database, world: World):
    with database.session() as session:
        return register_sampler(session, world.base_id, "http://127.0.0.1:1", "local")


async def test_samplers_shall_hold_heads_staged_and_pinned_checkpoints_and_the_base(
    database: Database, async_database: AsyncDatabase, world: World, add_checkpoint
):
    head, staged, pinned, _forgotten, _rejected = (
        add_checkpoint(s) for s in ("committed", "staged", "committed", "committed", "rejected")
    )
    with database.session() as session:
        session.execute(update(ModelRow).where(ModelRow.id == world.model_id).values(head_checkpoint_id=head))
    async with async_database.session() as session:
        await want_checkpoint(session, pinned, for_s=60)
    expected = {base_adapter_name(world.base_id), *(f"hw-{c.hex}" for c in (head, staged, pinned))}
    assert wanted_names(database, world) == expected


async def test_a_pin_runs_out_and_a_shorter_one_does_not_shorten_it(
    database: Database, async_database: AsyncDatabase, world: World, add_checkpoint
):
    long, past = add_checkpoint(), add_checkpoint()
    async with async_database.session() as session:
        await want_checkpoint(session, long, for_s=60)
        await want_checkpoint(session, long, for_s=-1)
        await want_checkpoint(session, past, for_s=-1)
    assert wanted_names(database, world) == {base_adapter_name(world.base_id), f"hw-{long.hex}"}


async def test_requests_go_only_to_live_samplers_that_hold_the_adapter(
    database: Database, async_database: AsyncDatabase, world: World, sampler_id
):
    async def holders() -> list[str]:
        async with async_database.session() as session:
            return [s.url for s in await samplers_holding(session, world.base_id, "hw-x")]

    assert await holders() == []
    with database.connection() as connection:
        report_adapter(connection, sampler_id, "hw-x", "out of memory")
    assert await holders() == []
    with database.connection() as connection:
        report_adapter(connection, sampler_id, "hw-x", None)
    assert await holders() == ["http://127.0.0.1:1"]
    with database.session() as session:
        forget_adapter(session, sampler_id, "hw-x")
    assert await holders() == []
    with database.connection() as connection:
        report_adapter(connection, sampler_id, "hw-x", None)
    with database.session() as session:
        say_goodbye(session, SamplerRow, sampler_id)
    assert await holders() == []
