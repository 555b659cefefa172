"""What clients see of checkpoints that retention has thinned."""

from __future__ import annotations

import uuid

from sqlalchemy import func, update

from store.database import AsyncDatabase
from store.tables import CheckpointRow, ModelRow
from tests.contract.stand_ins import add_checkpoint


async def thinned(database: AsyncDatabase, model_id: str, **marks) -> CheckpointRow:
    async with database.session() as session:
        model = await session.get_one(ModelRow, uuid.UUID(model_id))
        checkpoint = await add_checkpoint(session, model)
        query = update(CheckpointRow).where(CheckpointRow.id == checkpoint.id)
        await session.execute(query.values({mark: func.clock_timestamp() for mark in marks or ("state_removed_at",)}))
        return checkpoint


async def test_a_rollback_to_a_thinned_node_says_that_moments_are_fresh(team, model, database: AsyncDatabase):
    checkpoint = await thinned(database, model["id"])
    path = f"/v2/models/{model['id']}"
    moved = await team.http.put(f"{path}/head", json={"checkpoint_id": checkpoint.name})
    assert moved.status_code == 200, moved.text
    assert moved.json()["fresh_moments"] is True
    assert (await team.http.get(f"{path}/head")).json()["fresh_moments"] is True
    (node,) = (await team.http.get(f"{path}/checkpoints")).json()
    assert (node["has_files"], node["has_optimizer_state"], node["is_pinned"]) == (True, False, False)


async def test_a_fork_of_a_thinned_node_says_so_too(team, model, database: AsyncDatabase):
    checkpoint = await thinned(database, model["id"])
    await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": checkpoint.name})
    fork = await team.fork(model["id"])
    assert (await team.http.get(f"/v2/models/{fork['id']}/head")).json()["fresh_moments"] is True


async def test_a_node_with_its_state_does_not_say_so(team, model):
    await team.step(model["id"])
    assert (await team.http.get(f"/v2/models/{model['id']}/head")).json()["fresh_moments"] is False


async def test_a_node_without_files_is_history(team, model, database: AsyncDatabase):
    checkpoint = await thinned(database, model["id"], files_removed_at=True)
    reply = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": checkpoint.name})
    assert reply.status_code == 410
    assert "removed by the retention policy" in reply.json()["detail"]
    (node,) = (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()
    assert (node["has_files"], node["has_optimizer_state"]) == (False, False)
