"""The catalog, forks, checkpoint trees and heads."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from sqlalchemy import func, select, update

from server.audit.recording import COMMAND_LINE, record
from server.catalog.repeated_moves import SET_HEAD, MovedAlready, newest_move, refuse_repeated
from server.catalog.types import CatalogModel, CheckpointNode
from store.database import AsyncDatabase
from store.tables import AdapterWantRow, CheckpointRow, EventRow, ModelRow, SamplerAdapterRow, SamplerRow
from tests.contract.conftest import batch
from tests.contract.stand_ins import add_checkpoint


async def test_the_catalog_shows_bases_and_own_forks(team, other_team, base, model):
    page = (await team.http.get("/v2/models?limit=100&offset=0")).json()
    rows = {row["model_name"]: row for row in page["items"]}
    assert page["total"] == len(page["items"])
    fork = rows[model["model_name"]]
    assert fork["id"] == model["id"]
    assert fork["sdk_agent_type"] == "openai_compatible"
    assert fork["is_trainable"] is True
    assert fork["provider"] == {"name": "headway"}
    assert fork["base_model"] == base.slug
    assert rows[base.slug]["is_trainable"] is True  # what can be forked: the SDK marks it
    assert rows[base.slug]["base_model"] is None
    others = (await other_team.http.get("/v2/models")).json()
    assert model["model_name"] not in {row["model_name"] for row in others["items"]}


async def test_without_a_limit_the_whole_catalog_comes_and_with_one_it_is_paged(team, base):
    for _ in range(3):
        await team.fork(str(base.id))
    everything = (await team.http.get("/v2/models")).json()
    assert len(everything["items"]) == everything["total"] >= 4
    paged = []
    while len(paged) < everything["total"]:
        page = (await team.http.get("/v2/models", params={"limit": 1, "offset": len(paged)})).json()
        assert len(page["items"]) == 1
        paged += page["items"]
    assert paged == everything["items"]


async def test_the_catalog_says_of_a_model_what_the_model_itself_says(team, base, database):
    paused, described = [await team.fork(str(base.id)) for _ in range(2)]
    chosen = {"source_model_id": str(base.id), "name": f"m-{uuid.uuid4().hex[:8]}", "lora": {"rank": 4, "seed": 7}}
    (await team.http.post("/v2/models/fork", json=chosen)).raise_for_status()
    (await team.http.post(f"/v2/models/{paused['id']}/pause", json={"reason": 'to "look" at it: é'})).raise_for_status()
    told = {"description": "of the sums", "tags": ["a", "b, c"]}
    (await team.http.patch(f"/v2/models/{described['id']}", json=told)).raise_for_status()
    await team.step(described["id"])
    async with database.session() as session:
        vendors = [
            ModelRow(
                slug=f"{api}-{uuid.uuid4().hex[:8]}", name=f"of {api}", upstream={"api": api, "model": "their-own"}
            )
            for api in ("openai", "anthropic", "gemini")
        ]
        slug = f"org/Eyes-{uuid.uuid4().hex[:8]}"
        sees = ModelRow(slug=slug, name=slug, weights="/nowhere", info={"pictures": {"kind": "fixed"}})
        session.add_all([*vendors, sees])
    rows = (await team.http.get("/v2/models")).json()["items"]
    assert {row["lora"]["rank"] for row in rows if row["lora"]} >= {4, described["lora"]["rank"]}
    assert {row["provider"]["name"] for row in rows} >= {"headway", "openai", "anthropic", "gemini"}
    for row in rows:
        itself = (await team.http.get(f"/v2/models/{row['id']}")).json()
        assert CatalogModel.model_validate(row) == CatalogModel.model_validate(itself)
        assert set(row) == set(itself)
    assert [row["pause_reason"] for row in rows if row["id"] == paused["id"]] == ['to "look" at it: é']
    reads = {row["model_name"]: row["input_modalities"] for row in rows}
    assert (reads[described["model_name"]], reads[slug]) == (["text"], ["text", "image"])
    assert [reads[vendor.slug] for vendor in vendors] == [None] * 3
    listed = {row["id"]: row["input_modalities"] for row in (await team.http.get("/v1/models")).json()["data"]}
    assert {name: listed[name] for name in reads} == reads
    assert (await team.http.get(f"/v1/models/{sees.id}")).json()["input_modalities"] == ["text", "image"]
    async with database.session() as session:
        for row in (*vendors, sees):
            await session.delete(row)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "offset=-1", "limit=9999999999999999999999"])
async def test_a_bad_page_is_refused(query, standing_team):
    reply = await standing_team.http.get(f"/v2/models?{query}")
    assert reply.status_code == 422
    assert isinstance(reply.json()["detail"], str)


async def test_a_model_is_found_by_id_slug_and_last_segment_whatever_the_case(team, base, model):
    for reference in (str(base.id), base.id.hex, "ORG/tiny-base", "tiny-BASE"):
        reply = await team.http.get("/v2/models/resolve", params={"model": reference})
        assert reply.json()["id"] == str(base.id), reference
    for reference in ("nothing", "\x00", "\ud800".encode("utf-8", "surrogatepass"), "%", "org/"):
        reply = await team.http.get("/v2/models/resolve", params={"model": reference})
        assert reply.status_code == 404, reference


async def test_a_fork_of_a_base_has_no_checkpoints(team, model):
    assert model["model_name"] == model["name"]
    assert (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json() == []
    head = (await team.http.get(f"/v2/models/{model['id']}/head")).json()
    assert head["checkpoint_id"] is None


async def test_a_fork_of_a_trained_model_starts_from_its_heads_files(team, model, database):
    step = await team.step(model["id"])
    fork = await team.fork(model["model_name"])
    [root] = (await team.http.get(f"/v2/models/{fork['id']}/checkpoints")).json()
    assert root["is_active"]
    assert root["step"] == 0
    assert root["prev_model_checkpoint_id"] is None
    assert root["metrics"] == {}
    async with database.session() as session:
        row = await session.get_one(CheckpointRow, uuid.UUID(root["id"]))
        source = await session.get_one(CheckpointRow, uuid.UUID(step["checkpoint_id"]))
        forked = await session.get_one(ModelRow, uuid.UUID(fork["id"]))
        origin = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        assert (row.files_id, row.files_model_id) == (source.files_id, source.files_model_id)
        assert row.adapter_name == source.adapter_name
        assert forked.lora == origin.lora
        assert forked.base_id == origin.base_id
    assert (await team.step(fork["id"]))["step"] == 1
    assert len((await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()) == 1


REFUSED_NAMES = ["", "a b", "a/b", "-a", "x" * 101, "ä", "a\x00", "claude", "OpenAI", uuid.UUID(int=9).hex]


@pytest.mark.parametrize("name", REFUSED_NAMES)
async def test_a_bad_name_for_a_fork_is_refused(name, standing_team, base):
    reply = await standing_team.http.post("/v2/models/fork", json={"source_model_id": str(base.id), "name": name})
    assert reply.status_code == 422
    assert isinstance(reply.json()["detail"], str)


async def test_a_taken_name_is_a_conflict(team, other_team, base, model):
    for name in (model["model_name"].upper(), "Tiny-Base"):
        reply = await team.http.post("/v2/models/fork", json={"source_model_id": str(base.id), "name": name})
        assert reply.status_code == 409
        assert "is taken" in reply.json()["detail"]
    await other_team.fork(str(base.id), model["model_name"])  # names are a team's own


async def test_of_racing_forks_one_gets_the_name(team, base):
    body = {"source_model_id": str(base.id), "name": "raced"}
    replies = await asyncio.gather(*(team.http.post("/v2/models/fork", json=body) for _ in range(4)))
    assert sorted(reply.status_code for reply in replies) == [201, 409, 409, 409]


async def test_an_unknown_source_is_not_found(team):
    reply = await team.http.post("/v2/models/fork", json={"source_model_id": "nothing", "name": "x1"})
    assert reply.status_code == 404


async def test_checkpoints_come_oldest_first_as_a_bare_array(team, model):
    first, second = await team.step(model["id"]), await team.step(model["id"])
    nodes = (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()
    assert [node["id"] for node in nodes] == [first["checkpoint_id"], second["checkpoint_id"]]
    assert [node["is_active"] for node in nodes] == [False, True]
    assert nodes[1]["prev_model_checkpoint_id"] == first["checkpoint_id"]
    assert nodes[1]["metrics"] == {"reward_std": 0.5}
    assert nodes[1]["checkpoint_name"] == path_of(model, second)


async def test_a_listed_checkpoint_says_what_its_row_says(team, model, database):
    await team.step(model["id"])
    listed = await team.http.get(f"/v2/models/{model['id']}/checkpoints")
    assert listed.headers["content-type"] == "application/json"
    (node,) = listed.json()
    assert list(node) == list(CheckpointNode.model_fields)
    read = CheckpointNode.model_validate(node, strict=False)
    async with database.session() as session:
        row = await session.get_one(CheckpointRow, uuid.UUID(node["id"]))
    for name in ("name", "step", "created_at", "num_traces", "num_tokens", "mean_reward", "learning_rate", "metrics"):
        assert getattr(read, name) == getattr(row, name), name
    assert (read.is_active, read.has_files, read.has_optimizer_state, read.is_pinned) == (True, True, True, False)


async def test_a_reward_that_is_no_number_is_listed_as_none(team, model, database):
    await team.step(model["id"])
    async with database.session() as session:
        await session.execute(
            update(CheckpointRow)
            .where(CheckpointRow.model_id == uuid.UUID(model["id"]))
            .values(mean_reward=float("nan"), learning_rate=float("inf"))
        )
    (node,) = (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()
    assert (node["mean_reward"], node["learning_rate"]) == (None, None)


@pytest.mark.parametrize("newest_first", [False, True])
async def test_checkpoints_come_in_pages_where_a_limit_is_given(team, model, database, newest_first):
    """Nodes of one moment, too, and one that comes meanwhile."""
    path = f"/v2/models/{model['id']}/checkpoints"
    async with database.session() as session:
        row = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        for _ in range(5):
            row.head_checkpoint_id = (await add_checkpoint(session, row)).id
            await session.flush()
    whole = [node["id"] for node in (await team.http.get(path, params={"newest_first": newest_first})).json()]
    assert whole == [node["id"] for node in (await team.http.get(path)).json()][:: -1 if newest_first else 1]
    found, sizes = list[str](), list[int]()
    reply = await team.http.get(path, params={"limit": 2, "newest_first": newest_first})
    while True:
        sizes.append(len(reply.json()))
        found += [node["id"] for node in reply.json()]
        if "next" not in reply.links:
            break
        reply = await team.http.get(reply.links["next"]["url"])
    assert (found, sizes) == (whole, [2, 2, 1])
    refused = await team.http.get(path, params={"cursor": "nonsense", "limit": 2})
    assert refused.status_code == 422


async def test_a_page_links_to_the_next_one_however_the_model_is_written(team, model):
    for _ in range(2):
        await team.step(model["id"])
    wide = model["id"].translate({ord("0") + digit: ord("０") + digit for digit in range(10)})
    for written in (model["name"], wide):
        first = await team.http.get(f"/v2/models/{written}/checkpoints", params={"limit": 1, "other": "é&=;"})
        second = await team.http.get(first.links["next"]["url"])
        assert [node["step"] for node in first.json() + second.json()] == [1, 2]
        assert "next" not in second.links


async def test_the_head_rolls_back_and_the_next_step_extends_from_there(team, model, database):
    first, second = await team.step(model["id"]), await team.step(model["id"])
    await team.train(model["id"], "forward-backward", batch())
    reply = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": first["checkpoint_id"]})
    assert reply.status_code == 200, reply.text
    assert reply.json()["checkpoint_id"] == first["checkpoint_id"]
    dropped = await team.train(model["id"], "optim-step", {"learning_rate": 1e-3})
    assert dropped.status_code == 409  # the gradient on the old head is gone
    third = await team.step(model["id"])
    nodes = {node["id"]: node for node in (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()}
    assert nodes[third["checkpoint_id"]]["prev_model_checkpoint_id"] == first["checkpoint_id"]
    assert not nodes[second["checkpoint_id"]]["is_active"]
    async with database.session() as session:
        query = select(EventRow).where(EventRow.subject_id == uuid.UUID(model["id"]), EventRow.action == "set_head")
        [event] = await session.scalars(query)
        assert event.detail == {"from": second["checkpoint_id"], "to": first["checkpoint_id"]}


async def test_the_head_goes_back_to_the_base_weights(team, model):
    await team.step(model["id"])
    reply = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": None})
    nothing = {"checkpoint_id": None, "checkpoint_name": None, "step": None, "fresh_moments": False}
    assert reply.json() == {"model_id": model["id"], **nothing}
    nodes = (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()
    assert [node["is_active"] for node in nodes] == [False]


def path_of(model, step):
    """As trainers return it (`sampler_path`); the stand-in's is made up."""
    return f"checkpoints/{uuid.UUID(model['id']).hex}/{uuid.UUID(step['checkpoint_id']).hex}/adapter"


def references_to(model, node):
    """Everything by which a checkpoint may be asked for."""
    by_name = (node["name"], f"{model['model_name']}/{node['name']}", f"{model['model_name'].upper()}/{node['name']}")
    return (node["checkpoint_name"], node["id"], uuid.UUID(node["id"]).hex, *by_name)


async def test_a_checkpoint_is_meant_by_path_id_name_or_slug_and_name_wherever_one_is_asked_for(team, model, base):
    await team.step(model["id"])
    await team.step(model["id"])
    node = (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()[0]
    for reference in references_to(model, node):
        head = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": reference})
        assert head.json()["checkpoint_id"] == node["id"], reference
        score = {"benchmark": "b", "score": 0.5, "checkpoint": reference}
        scored = await team.http.post(f"/v2/models/{model['id']}/evals", json=score)
        assert scored.json()["checkpoint_id"] == node["id"], reference
        chat = {"model": model["model_name"], "messages": [{"role": "user", "content": "x"}], "checkpoint": reference}
        reply = await team.http.post("/chat/completions", json=chat)
        assert reply.json()["checkpoint"]["id"] == node["id"], reference
    other = await team.fork(str(base.id))
    elsewhere = (
        f"{other['model_name']}/{node['name']}",
        f"{other['model_name']}/{node['id']}",
        node["checkpoint_name"].replace("adapter", "state"),
        node["checkpoint_name"].replace("checkpoints", "elsewhere"),
        "\x00",
    )
    for reference in elsewhere:
        head = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": reference})
        assert head.status_code == 404, reference
        chat["checkpoint"] = reference
        assert (await team.http.post("/chat/completions", json=chat)).status_code == 404, reference
    for reference in references_to(model, node):  # of another model
        head = await team.http.put(f"/v2/models/{other['id']}/head", json={"checkpoint_id": reference})
        assert head.status_code == 404, reference


async def test_a_path_comes_before_an_id_an_id_before_a_name_and_a_name_before_slug_and_name(team, model, database):
    steps = [await team.step(model["id"]) for _ in range(4)]
    path, named = path_of(model, steps[0]), f"{model['model_name']}/x"
    names = {1: path, 2: steps[1]["checkpoint_id"], 3: "x"}
    async with database.session() as session:
        for index, name in names.items():
            row = await session.get_one(CheckpointRow, uuid.UUID(steps[index]["checkpoint_id"]))
            row.name = name

    async def meant(reference):
        reply = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": reference})
        return [step["checkpoint_id"] for step in steps].index(reply.json()["checkpoint_id"])

    assert [await meant(path), await meant(steps[1]["checkpoint_id"]), await meant(named)] == [0, 1, 3]
    async with database.session() as session:
        (await session.get_one(CheckpointRow, uuid.UUID(steps[2]["checkpoint_id"]))).name = named
    assert await meant(named) == 2


async def test_the_root_of_a_fork_has_the_path_of_the_files_that_it_took_over(team, model):
    step = await team.step(model["id"])
    fork = await team.fork(model["model_name"])
    [root] = (await team.http.get(f"/v2/models/{fork['id']}/checkpoints")).json()
    assert root["checkpoint_name"] == path_of(model, step)
    chat = {"model": fork["model_name"], "messages": [{"role": "user", "content": "x"}]}
    reply = await team.http.post("/chat/completions", json={**chat, "checkpoint": root["checkpoint_name"]})
    assert reply.json()["checkpoint"]["id"] == root["id"]


async def test_the_catalog_of_old_clients_leaves_bases_out_of_a_team_s_models(team, base, model):
    everything = (await team.http.get("/models/", params={"limit": 200})).json()["models"]
    assert {row["model_name"] for row in everything if row["is_trainable"]} == {model["model_name"]}
    assert base.slug in {row["model_name"] for row in everything if row["public"]}
    [own] = (await team.http.get("/models/", params={"team_only": "true", "limit": 200})).json()["models"]
    expected = {"id": model["id"], "is_trainable": True, "status": "ready", "public": False, "base_model": base.slug}
    assert {name: own[name] for name in expected} == expected
    refused = await team.train(str(base.id), "forward-backward", batch())
    assert refused.status_code == 403
    assert "fork" in refused.json()["detail"]


async def test_a_base_model_has_no_head_to_set(team, base):
    reply = await team.http.put(f"/v2/models/{base.id}/head", json={"checkpoint_id": None})
    assert reply.status_code == 403


async def test_the_head_stays_when_every_sampler_refuses_the_checkpoint(team, model, base, database):
    step = await team.step(model["id"])
    broken = await unloaded_checkpoint(database, model["id"])
    async with database.session() as session:
        sampler = (await session.scalars(select(SamplerRow).where(SamplerRow.base_id == base.id))).one()
        row = SamplerAdapterRow(sampler_id=sampler.id, adapter=broken.adapter_name, state="failed", error="too broken")
        session.add(row)
    reply = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": str(broken.id)})
    assert reply.status_code == 409
    assert "too broken" in reply.json()["detail"]
    head = (await team.http.get(f"/v2/models/{model['id']}/head")).json()
    assert head["checkpoint_id"] == step["checkpoint_id"]


async def test_the_head_stays_when_no_sampler_loads_the_checkpoint_in_time(team, model, database):
    slow = await unloaded_checkpoint(database, model["id"])
    reply = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": str(slow.id)})
    assert reply.status_code == 503
    assert reply.headers["retry-after"]
    async with database.session() as session:
        assert await session.get(AdapterWantRow, slow.id) is not None  # samplers were asked


async def test_a_head_that_is_asked_for_again_while_samplers_load_moves_once(team, model, base, database):
    before = await team.step(model["id"])
    slow, path = await unloaded_checkpoint(database, model["id"]), f"/v2/models/{model['id']}/head"
    calls = [asyncio.create_task(team.http.put(path, json={"checkpoint_id": str(slow.id)})) for _ in range(3)]
    await asyncio.sleep(0.2)  # they came in
    async with database.session() as session:
        version = (await session.get_one(ModelRow, uuid.UUID(model["id"]))).head_version
        sampler = (await session.scalars(select(SamplerRow).where(SamplerRow.base_id == base.id))).one()
        session.add(SamplerAdapterRow(sampler_id=sampler.id, adapter=slow.adapter_name, state="loaded"))
    replies = await asyncio.gather(*calls)
    assert [reply.json()["checkpoint_id"] for reply in replies] == [str(slow.id)] * 3
    async with database.session() as session:
        assert (await session.get_one(ModelRow, uuid.UUID(model["id"]))).head_version == version + 1
    back = await team.http.put(path, json={"checkpoint_id": before["checkpoint_id"]})
    again = await team.http.put(path, json={"checkpoint_id": str(slow.id)})
    assert [back.json()["checkpoint_id"], again.json()["checkpoint_id"]] == [before["checkpoint_id"], str(slow.id)]


async def test_another_event_committed_before_a_move_does_not_hide_it_from_a_call_that_was_sent_again(
    team, model, database
):
    """The move has its id, and is committed after an event with a higher one and after the call came in."""
    target, model_id = await unloaded_checkpoint(database, model["id"]), uuid.UUID(model["id"])
    async with database.session() as moving:
        await moving.execute(select(ModelRow.id).where(ModelRow.id == model_id).with_for_update())
        record(moving, COMMAND_LINE, SET_HEAD, subject_id=model_id, to=str(target.id))
        await moving.flush()
        async with database.session() as other:
            record(other, COMMAND_LINE, "fork", subject_id=model_id)
        async with database.session() as session:
            since = await newest_move(session, model_id)
    async with database.session() as session:
        with pytest.raises(MovedAlready):
            await refuse_repeated(session, COMMAND_LINE, model_id, target.id, since)


async def test_the_head_moves_when_no_sampler_lives(team, model, database):
    unloaded = await unloaded_checkpoint(database, model["id"])
    async with no_samplers(database):
        reply = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": str(unloaded.id)})
    assert reply.status_code == 200, reply.text


async def unloaded_checkpoint(database: AsyncDatabase, model_id: str) -> CheckpointRow:
    """A committed checkpoint that no sampler holds yet."""
    async with database.session() as session:
        model = await session.get_one(ModelRow, uuid.UUID(model_id))
        checkpoint = await add_checkpoint(session, model)
        held = await session.scalars(
            select(SamplerAdapterRow).where(SamplerAdapterRow.adapter == checkpoint.adapter_name)
        )
        for row in held:
            await session.delete(row)
    return checkpoint


class no_samplers:
    """For a while every sampler has said goodbye."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    async def __aenter__(self) -> None:
        stops = update(SamplerRow).where(SamplerRow.stopped_at.is_(None)).values(stopped_at=func.clock_timestamp())
        async with self._database.session() as session:
            self._stopped = (await session.scalars(stops.returning(SamplerRow.id))).all()

    async def __aexit__(self, *_: object) -> None:
        came_back = update(SamplerRow).where(SamplerRow.id.in_(self._stopped)).values(stopped_at=None)
        async with self._database.session() as session:
            await session.execute(came_back)


async def without_files(team, model, database: AsyncDatabase) -> list[dict]:
    """Two nodes, of which none has files."""
    for _ in range(2):
        await team.step(model["id"])
    async with database.session() as session:
        of_model = CheckpointRow.model_id == uuid.UUID(model["id"])
        await session.execute(update(CheckpointRow).where(of_model).values(is_saved=False))
        await session.execute(update(ModelRow).where(ModelRow.id == uuid.UUID(model["id"])).values(serves_head=False))
    return (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()


async def test_the_head_is_moved_to_a_node_without_files_once_it_has_some(team, model, database):
    first, _ = await without_files(team, model, database)
    reply = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": first["id"]})
    assert (reply.status_code, reply.json()["checkpoint_id"]) == (200, first["id"]), reply.text
    async with database.session() as session:
        assert (await session.get_one(CheckpointRow, uuid.UUID(first["id"]))).is_saved
        moved = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        assert (moved.serves_head, moved.served_checkpoint_id) == (True, None)


async def test_a_fork_of_a_head_without_files_starts_from_the_files_that_it_gets(team, model, database):
    _, head = await without_files(team, model, database)
    fork = await team.fork(model["id"])
    async with database.session() as session:
        assert (await session.get_one(CheckpointRow, uuid.UUID(head["id"]))).is_saved
        root = await session.get_one(CheckpointRow, uuid.UUID(fork["head_checkpoint_id"]))
        assert root.files_id == uuid.UUID(head["id"])
