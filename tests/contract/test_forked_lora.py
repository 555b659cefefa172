"""The shape of a fork's adapter: chosen in the request, checked, and shown."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, update

from store.database import AsyncDatabase
from store.tables import ModelRow, SamplerAdapterRow, SamplerRow
from tests.contract.conftest import Team
from tests.contract.stand_ins import register_sampler
from tests.contract.test_model_commands import headway
from tests.contract.test_pages import signed_in
from tests.contract.test_training_runs import ROOT

LAYERS = {"attn": ["q_proj", "o_proj"], "mlp": ["up_proj", "o_proj"], "unembed": ["lm_head"]}


async def forked(team: Team, source: str, **lora: Any) -> httpx.Response:
    body = {"source_model_id": source, "name": f"m-{uuid.uuid4().hex[:8]}", "lora": lora}
    return await team.http.post("/v2/models/fork", json=body)


async def row_of(database: AsyncDatabase, model_id: str) -> dict[str, Any] | None:
    async with database.session() as session:
        return (await session.get_one(ModelRow, uuid.UUID(model_id))).lora


@pytest.fixture
async def read_base(base: ModelRow, database: AsyncDatabase) -> AsyncIterator[ModelRow]:
    """Of which a trainer named the layers: adapters leave a part of its mlp out."""

    async def say(info: dict[str, Any] | None) -> None:
        async with database.session() as session:
            await session.execute(update(ModelRow).where(ModelRow.id == base.id).values(info=info))

    await say({**(base.info or {}), "adapted_parts": ["attn", "unembed"], "lora_layers": LAYERS})
    yield base
    await say(base.info)


@pytest.fixture
async def low_ranks(base: ModelRow, database: AsyncDatabase) -> AsyncIterator[None]:
    """Every sampler of the base has a limit, the highest of which is 32."""

    async def limit(details: dict[str, Any], *where: Any) -> None:
        async with database.session() as session:
            await session.execute(
                update(SamplerRow).where(SamplerRow.base_id == base.id, *where).values(details=details)
            )

    await limit({"max_lora_rank": 32})
    other = await register_sampler(database, base.id, "http://127.0.0.1:1")
    await limit({"max_lora_rank": 8}, SamplerRow.id == other)
    yield
    async with database.session() as session:
        await session.execute(delete(SamplerAdapterRow).where(SamplerAdapterRow.sampler_id == other))
        await session.execute(delete(SamplerRow).where(SamplerRow.id == other))
    await limit({})


async def test_what_is_not_chosen_is_the_servers_default(team: Team, base: ModelRow, database: AsyncDatabase):
    plain = await team.fork(str(base.id))
    assert plain["lora"] == {"rank": 16, "alpha": 32, "targets": ["attn", "mlp"], "seed": 0, "layers": None}
    made = await forked(team, base.slug, rank=64, seed=7)
    assert made.status_code == 201, made.text
    assert made.json()["lora"] == {**plain["lora"], "rank": 64, "seed": 7}
    assert await row_of(database, made.json()["id"]) == {
        "rank": 64, "alpha": 32, "init_seed": 7, "attn": True, "mlp": True, "unembed": False
    }  # fmt: skip
    assert (await team.http.get(f"/v2/models/{base.id}")).json()["lora"] is None


async def test_every_part_of_the_shape_can_be_chosen_and_is_shown(team: Team, base: ModelRow):
    lora = {"rank": 1024, "alpha": 7, "targets": ["unembed", "attn"], "seed": 2**63 - 1}
    made = (await forked(team, base.slug, **lora)).json()
    wanted = {**lora, "targets": ["attn", "unembed"], "layers": None}
    assert made["lora"] == wanted
    assert (await team.http.get(f"/v2/models/{made['id']}")).json()["lora"] == wanted
    rows = (await team.http.get("/v2/models")).json()["items"]
    assert next(row["lora"] for row in rows if row["id"] == made["id"]) == wanted


@pytest.mark.parametrize(
    ("lora", "sentence"),
    [
        ({"rank": 0}, "greater than or equal to 1"),
        ({"rank": 1025}, "less than or equal to 1024"),
        ({"rank": "many"}, "lora.rank"),
        ({"rank": 1.5}, "lora.rank"),
        ({"alpha": 0}, "lora.alpha"),
        ({"seed": -1}, "lora.seed"),
        ({"seed": 2**63}, "lora.seed"),
        ({"targets": []}, "lora.targets"),
        ({"targets": ["q_proj"]}, "'attn', 'mlp' or 'unembed'"),
        ({"targets": ["attn", "vision"]}, "the tower of a base that reads pictures stays as it is"),
        ({"targets": "attn"}, "lora.targets"),
        ({"dropout": 0.1}, "lora.dropout"),
    ],
)
async def test_a_shape_that_cannot_be_is_refused_with_what_can(
    lora: dict[str, Any], sentence: str, standing_team: Team, base: ModelRow
):
    reply = await forked(standing_team, str(base.id), **lora)
    assert (reply.status_code, sentence in reply.json()["detail"]) == (422, True), reply.text


async def test_parts_that_the_base_lacks_are_refused_with_those_that_it_has(team: Team, read_base: ModelRow):
    reply = await forked(team, read_base.slug, targets=["attn", "mlp"])
    assert (reply.status_code, "may be: attn, unembed" in reply.json()["detail"]) == (422, True), reply.text
    reply = await forked(team, read_base.slug, targets=["attn"])
    assert (reply.status_code, "called o_proj" in reply.json()["detail"]) == (422, True), reply.text
    made = (await forked(team, read_base.slug, targets=["unembed"])).json()
    assert made["lora"]["layers"] == ["lm_head"]
    plain = await forked(team, read_base.slug, rank=2)  # who names no parts gets the layers that there are
    assert plain.json()["lora"]["layers"] == ["o_proj", "q_proj", "up_proj"]
    rows = {row["id"]: row for row in (await team.http.get("/v2/models")).json()["items"]}
    for model in (made, plain.json()):
        assert rows[model["id"]]["lora"] == model["lora"]


@pytest.mark.usefixtures("low_ranks")
async def test_a_rank_that_no_sampler_serves_is_refused_with_the_highest(team: Team, base: ModelRow):
    reply = await forked(team, base.slug, rank=33)
    said = reply.json()["detail"]
    assert (reply.status_code, "up to rank 32, not 33" in said, "--vllm-max-lora-rank" in said) == (422, True, True)
    assert (await forked(team, base.slug, rank=32)).status_code == 201
    session = (await team.http.post(f"{ROOT}/create_session", json={})).json()["session_id"]
    asked = {"session_id": session, "model_seq_id": 0, "base_model": base.slug, "lora_config": {"rank": 33}}
    reply = await team.http.post(f"{ROOT}/create_model", json=asked)
    assert (reply.status_code, "up to rank 32" in reply.json()["detail"]) == (422, True), reply.text


async def test_a_fork_of_trained_weights_has_their_shape(team: Team, base: ModelRow, database: AsyncDatabase):
    source = (await forked(team, base.slug, rank=4, targets=["mlp"], seed=3)).json()
    free = await forked(team, source["id"], rank=8)  # of the base weights: nothing was trained yet
    assert free.json()["lora"] == {**source["lora"], "rank": 8}
    await team.step(source["id"])
    for other in ({"rank": 8}, {"alpha": 1}, {"targets": ["attn"]}, {"seed": 4}):
        reply = await forked(team, source["id"], **other)
        assert reply.status_code == 409, (other, reply.text)
        assert "rank 4, alpha 32 on mlp, seed 3" in reply.json()["detail"]
    same = await forked(team, source["id"], rank=4, targets=["mlp"])
    assert (same.status_code, same.json()["lora"]) == (201, source["lora"])
    plain = await team.fork(source["id"])
    assert await row_of(database, plain["id"]) == await row_of(database, source["id"])


async def test_a_row_that_says_less_has_what_the_trainer_takes(team: Team, base: ModelRow, database: AsyncDatabase):
    model = await team.fork(str(base.id))
    async with database.session() as session:
        row = update(ModelRow).where(ModelRow.id == uuid.UUID(model["id"]))
        await session.execute(row.values(lora={"rank": 4, "unembed": True}))
    shown = (await team.http.get(f"/v2/models/{model['id']}")).json()
    assert shown["lora"] == {**model["lora"], "rank": 4, "targets": ["attn", "mlp", "unembed"]}
    rows = (await team.http.get("/v2/models")).json()["items"]
    assert next(row for row in rows if row["id"] == model["id"]) == shown


async def test_it_is_forked_and_shown_on_a_command_line(team: Team, base: ModelRow):
    name = f"c-{uuid.uuid4().hex[:8]}"
    options = ("--lora-rank", "5", "--lora-alpha", "10", "--lora-targets", "attn,unembed", "--lora-seed", "9")
    status, said = await headway(team, "fork", base.slug, name, *options)
    assert (status, "rank 5, alpha 10 on attn, unembed, seed 9" in said) == (0, True), said
    assert "rank 5, alpha 10 on attn, unembed, seed 9" in (await headway(team, "show", name))[1]
    shown = json.loads((await headway(team, "show", name, "--json"))[1])
    assert shown["lora"]["alpha"] == 10
    assert f"{name}\t{base.slug}\t5\t" in (await headway(team, "list"))[1]
    assert (await headway(team, "fork", name, f"{name}-2"))[0] == 0
    status, said = await headway(team, "fork", base.slug, f"{name}-3", "--lora-targets", "experts")
    assert (status, "'attn', 'mlp' or 'unembed'" in said) == (1, True), said


async def test_pages_show_it(team: Team, base: ModelRow, origin: str):
    model = (await forked(team, base.slug, rank=6, targets=["attn"], seed=2)).json()
    async with signed_in(origin, team.key) as browser:
        page = (await browser.get(f"/models/{model['id']}?tab=checkpoints")).text
        compared = (await browser.get(f"/compare?model={model['id']}")).text
    assert "rank 6, alpha 32 on attn, seed 2" in page
    assert "LoRA of rank 6, alpha 32 on attn" in compared
