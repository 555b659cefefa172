"""Models that are renamed, described, deleted, and what others keep of them."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from server.runs.settings import RunConfig, StopRules
from store.blob_stores.file import FileBlobStore
from store.checkpoint_stores.file import FileCheckpointStore
from store.database import Database
from store.invariants.tree import TREE
from store.retention.collecting import Collector
from store.retention.pins import pin
from store.retention.policy import RetentionPolicy
from store.tables import CheckpointNameRow, CheckpointRow, EventRow, ModelRow, RunRow
from tests.contract.conftest import Team, batch
from tests.contract.test_adapter_downloads import path_of, write_files

CHAT = {"messages": [{"role": "user", "content": "6*6"}], "max_tokens": 2}


@pytest.fixture
async def trained(team: Team, model: dict[str, Any], database: Any, checkpoint_folder: Path) -> dict[str, Any]:
    """A model with two steps whose files are in the store."""
    for _ in range(2):
        step = await team.step(model["id"])
        await write_files(database, checkpoint_folder, uuid.UUID(step["checkpoint_id"]))
    return model


async def contents(team: Team, model: dict[str, Any]) -> dict[str, Any]:
    return (await team.http.get(f"/v2/models/{model['id']}/contents")).json()


async def nodes(team: Team, model: dict[str, Any]) -> list[dict[str, Any]]:
    return (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()


async def delete(team: Team, model: dict[str, Any]) -> None:
    counted = (await contents(team, model))["num_checkpoints"]
    reply = await team.http.delete(f"/v2/models/{model['id']}", params={"checkpoints": counted})
    assert reply.status_code == 200, reply.text


async def collect(database_url: str, folder: Path, tmp_path: Path) -> None:
    database = Database(database_url)
    collector = Collector(database, FileBlobStore(tmp_path), FileCheckpointStore(folder), RetentionPolicy(grace_s=0))
    await asyncio.to_thread(collector.collect)
    database.close()


async def test_a_model_is_renamed_described_and_tagged(team, other_team, trained, base, database):
    where, new = f"/v2/models/{trained['model_name']}", f"n-{uuid.uuid4().hex[:8]}"
    change = {"name": new, "description": "Adds numbers", "tags": ["sums", "sums", "paper"]}
    changed = await team.http.patch(where, json=change)
    assert changed.status_code == 200, changed.text
    shown = {name: changed.json()[name] for name in ("model_name", "name", "description", "tags")}
    assert shown == {"model_name": new, "name": new, "description": "Adds numbers", "tags": ["sums", "paper"]}
    assert (await team.http.get(where)).status_code == 404
    assert (await team.http.post("/v1/chat/completions", json={"model": new, **CHAT})).status_code == 200
    assert (await team.http.patch(f"/v2/models/{new}", json={"description": None})).json()["tags"] == ["sums", "paper"]
    for name, status in (("a b", 422), (None, 422), ("Tiny-Base", 409), (new.upper(), 200), ("x" * 101, 422)):
        assert (await team.http.patch(f"/v2/models/{new}", json={"name": name})).status_code == status, name
    for refused in ({"slug": "x"}, {"tags": ["a\nb"]}, {"tags": ["x"] * 21}, {"description": ""}):
        assert (await team.http.patch(f"/v2/models/{new}", json=refused)).status_code == 422
    assert (await team.http.patch(f"/v2/models/{base.id}", json={"name": "mine"})).status_code == 403
    assert (await other_team.http.patch(f"/v2/models/{trained['id']}", json={"name": "mine"})).status_code == 404
    async with database.session() as session:
        query = select(EventRow.action).where(EventRow.subject_id == uuid.UUID(trained["id"])).order_by(EventRow.id)
        actions = list(await session.scalars(query))
    assert actions[-4:] == ["rename_model", "describe_model", "describe_model", "rename_model"]


async def test_deleting_a_model_takes_the_number_of_its_checkpoints(team, trained):
    where = f"/v2/models/{trained['model_name']}"
    found = await contents(team, trained)
    assert (found["num_checkpoints"], found["num_bytes"] > 10_000, found["blockers"]) == (2, True, [])
    for query in ({}, {"checkpoints": 1}):
        refused = await team.http.delete(where, params=query)
        assert refused.status_code == 409
        assert "2 checkpoints" in refused.json()["detail"]
        assert "checkpoints=2" in refused.json()["detail"]
    assert (await team.http.delete(where, params={"checkpoints": 2})).json() == found
    for path in ("", "/head", "/checkpoints", "/checkpoints/head/adapter"):
        assert (await team.http.get(where + path)).status_code == 404
        assert (await team.http.get(f"/v2/models/{trained['id']}{path}")).status_code == 404
    for name in (trained["model_name"], trained["id"], f"{trained['model_name']} (deleted {trained['id'][:8]})"):
        assert (await team.http.post("/v1/chat/completions", json={"model": name, **CHAT})).status_code == 404
        assert (await team.train(name, "forward-backward", batch())).status_code == 404
    again = await team.fork("org/Tiny-Base", trained["model_name"])
    assert (await nodes(team, again)) == []


async def test_of_two_deletions_at_once_one_finds_no_model(team, model, database):
    async def delete_it() -> int:
        return (await team.http.delete(f"/v2/models/{model['id']}", params={"checkpoints": 0})).status_code

    assert sorted(await asyncio.gather(delete_it(), delete_it())) == [200, 404]
    async with database.session() as session:
        events = select(EventRow).where(
            EventRow.subject_id == uuid.UUID(model["id"]), EventRow.action == "delete_model"
        )
        assert len(list(await session.scalars(events))) == 1


async def test_its_files_go_and_those_that_a_fork_needs_stay_as_long_as_it(
    team, trained, database, database_url, checkpoint_folder, tmp_path
):
    fork = await team.fork(trained["id"])
    second = await team.fork(fork["id"])
    found = await contents(team, trained)
    assert (found["num_forks"], found["forks"]) == (2, [fork["model_name"], second["model_name"]])
    assert 0 < found["num_bytes_kept"] < found["num_bytes"]
    [_, head] = await nodes(team, trained)
    await delete(team, trained)
    await in_order(database, trained, fork, second)
    folder = checkpoint_folder / uuid.UUID(trained["id"]).hex
    await collect(database_url, checkpoint_folder, tmp_path)
    assert [path.name for path in folder.iterdir()] == [uuid.UUID(head["id"]).hex]
    assert (await team.http.get(path_of(second))).status_code == 200
    await delete(team, fork)
    await collect(database_url, checkpoint_folder, tmp_path)
    assert (await team.http.get(path_of(second))).status_code == 200
    await delete(team, second)
    await collect(database_url, checkpoint_folder, tmp_path)
    assert list(folder.iterdir()) == []
    await in_order(database, trained, fork, second)


async def in_order(database: Any, *models: dict[str, Any]) -> None:
    """What always holds of trees, of these models: the stand-in trainer writes no log."""
    ids = {uuid.UUID(model["id"]) for model in models}
    async with database.session() as session:
        for rule in TREE:
            rows = (await session.execute(text(rule.violations))).all()
            assert [row for row in rows if ids.intersection(row)] == [], rule.name


async def test_calls_that_wait_are_answered_and_what_was_accumulated_is_gone(team, trained, database):
    (await team.train(trained["id"], "forward-backward", batch())).raise_for_status()
    await delete(team, trained)
    async with database.session() as session:
        model = await session.get_one(ModelRow, uuid.UUID(trained["id"]))
        assert (model.removed_at is not None, model.head_checkpoint_id) == (True, None)
        states = await session.execute(
            text("select state, error_message from operations where model_id = :id and consumed_by_id is null"),
            {"id": model.id},
        )
        assert ("superseded", "the model was deleted before this was carried out") in [tuple(row) for row in states]


async def test_a_live_run_and_an_operators_pin_keep_it(team, trained, database):
    [first, _] = await nodes(team, trained)
    async with database.session() as session:
        row = await session.run_sync(lambda sync: pin(sync, trained["id"], first["name"], pinned=True))
        model = await session.get_one(ModelRow, uuid.UUID(trained["id"]))
        settings = {"config": RunConfig().model_dump(mode="json"), "stop": StopRules().model_dump(mode="json")}
        settings |= {"taskset": "t", "num_tasks": 0, "tasks": "[]", "job_id": uuid.uuid4()}
        run = RunRow(id=uuid.uuid4(), team_id=model.team_id, model_id=model.id, state="paused", **settings)
        session.add(run)
    blockers = (await contents(team, trained))["blockers"]
    assert len(blockers) == 2
    refused = await team.http.delete(f"/v2/models/{trained['id']}", params={"checkpoints": 2})
    assert (refused.status_code, str(run.id) in refused.json()["detail"]) == (409, True)
    assert (await team.http.patch(f"/v2/models/{trained['id']}", json={"name": "other-name"})).status_code == 409
    assert (await team.http.patch(f"/v2/models/{trained['id']}", json={"tags": ["a"]})).status_code == 200
    async with database.session() as session:
        (await session.get_one(RunRow, run.id)).state = "cancelled"
        (await session.get_one(CheckpointRow, row.id)).pinned_at = None
    await delete(team, trained)
    reply = await team.http.post(f"/v2/runs/{run.id}/resume")
    assert reply.status_code == 409
    assert (await team.http.get(f"/v2/runs/{run.id}")).json()["model"].startswith(trained["model_name"])


async def test_a_checkpoint_that_nothing_needs_is_deleted_and_stays_as_history(
    team, trained, database, database_url, checkpoint_folder, tmp_path
):
    [first, head] = await nodes(team, trained)
    where = f"/v2/models/{trained['id']}/checkpoints"
    refused = await team.http.delete(f"{where}/{head['name']}")
    assert (refused.status_code, "it is the head" in refused.json()["detail"]) == (409, True)
    async with database.session() as session:
        ids = {"model_id": uuid.UUID(trained["id"]), "checkpoint_id": uuid.UUID(first["id"])}
        name = CheckpointNameRow(kind="training", name="kept", size_bytes=1, **ids)
        session.add(name)
    refused = await team.http.delete(f"{where}/{first['name']}")
    assert (refused.status_code, "training/kept" in refused.json()["detail"]) == (409, True)
    async with database.session() as session:
        await session.delete(await session.get_one(CheckpointNameRow, name.id))
    deleted = await team.http.delete(f"{where}/{first['name']}")
    assert (deleted.status_code, deleted.json()["num_bytes"] > 5000) == (200, True), deleted.text
    assert (await team.http.delete(f"{where}/{first['id']}")).status_code == 410
    await collect(database_url, checkpoint_folder, tmp_path)
    folder = checkpoint_folder / uuid.UUID(trained["id"]).hex
    assert [path.name for path in folder.iterdir()] == [uuid.UUID(head["id"]).hex]
    assert [node["has_files"] for node in await nodes(team, trained)] == [False, True]
    moved = await team.http.put(f"/v2/models/{trained['id']}/head", json={"checkpoint_id": first["id"]})
    assert moved.status_code == 410
    await in_order(database, trained)
