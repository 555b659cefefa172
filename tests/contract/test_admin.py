"""Keys that are narrowed, rotated and revoked; quotas; pauses; draining; and the log of all of it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from server.audit.recording import COMMAND_LINE, GUARD
from server.auth.issuing import Grant, issue
from server.auth.service import ensure_team
from server.catalog.pausing import pause
from server.runs.settings import RunConfig, StopRules
from store.tables import ApiKeyRow, CheckpointRow, ModelRow, RunRow, SamplerRow
from tests.contract.conftest import Team, batch

CHAT = {"messages": [{"role": "user", "content": "6*6"}], "max_tokens": 2}


@pytest.fixture(scope="module")
async def admin(origin: str, database) -> AsyncIterator[httpx.AsyncClient]:
    async with database.session() as session:
        key, _ = await issue(session, await ensure_team(session, "operators"), Grant("op", "admin"), COMMAND_LINE)
    async with client(origin, key) as http:
        yield http


@pytest.fixture
async def team_id(team: Team) -> str:
    return (await team.http.get("/v2/auth/me")).json()["team_id"]


@pytest.fixture
async def boss(origin: str, admin, team_id) -> AsyncIterator[httpx.AsyncClient]:
    """A team_admin of the team."""
    made = await admin.post("/v2/admin/keys", json={"team_id": team_id, "name": "boss", "role": "team_admin"})
    assert made.json()["tinker_key"] == f"tml-{made.json()['key']}"
    async with client(origin, made.json()["tinker_key"]) as http:
        yield http


def client(origin: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=origin, headers={"Authorization": f"Bearer {key}"}, timeout=30, trust_env=False, verify=False
    )


async def make(http: httpx.AsyncClient, **wanted: Any) -> dict[str, Any]:
    reply = await http.post("/v2/team/keys", json={"name": "k", **wanted})
    assert reply.status_code == 201, reply.text
    return reply.json()


def refused(reply: httpx.Response, status: int, code: str, *words: str) -> None:
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    for word in words:
        assert word in reply.json()["detail"]


# Keys


async def test_a_key_for_sampling_some_models_samples_those_and_does_nothing_else(origin, boss, team, model, base):
    other = await team.fork(str(base.id))
    made = await make(boss, scopes=["sample"], models=[model["name"]])
    async with client(origin, made["key"]) as http:
        assert (await http.post("/chat/completions", json={"model": model["id"], **CHAT})).status_code == 200
        assert [row["id"] for row in (await http.get("/v1/models")).json()["data"]] == [model["model_name"]]
        for elsewhere in (other["id"], str(base.id)):
            refused(
                await http.post("/chat/completions", json={"model": elsewhere, **CHAT}), 403, "forbidden", "not for"
            )
        refused(await http.post(f"/v1/models/{model['id']}/train/optim-step", json={}), 403, "forbidden", "'train'")
        refused(await http.get("/v2/jobs"), 403, "forbidden", "'read'", "team_admin")


async def test_a_key_for_some_models_cannot_fork_or_make_a_key_for_all(origin, boss, model):
    made = await make(boss, role="team_admin", models=[model["id"]])
    async with client(origin, made["key"]) as http:
        refused(
            await http.post("/v2/models/fork", json={"source_model_id": model["id"], "name": "x"}), 403, "forbidden"
        )
        refused(await http.post("/v2/team/keys", json={"name": "wide"}), 403, "forbidden", "does not open")
        narrow = {"name": "narrow", "models": [model["id"]]}
        assert (await http.post("/v2/team/keys", json=narrow)).status_code == 201


async def test_a_rotated_key_works_until_its_grace_is_over_and_its_successor_does(origin, boss, database):
    old = await make(boss)
    new = (await boss.post(f"/v2/team/keys/{old['id']}/rotate", json={"grace_s": 3600})).json()
    assert (new["replaces_id"], new["role"], new["expires_at"]) == (old["id"], old["role"], None)
    async with client(origin, old["key"]) as before, client(origin, new["key"]) as after:
        assert (await before.get("/v2/models")).status_code == (await after.get("/v2/models")).status_code == 200
        async with database.session() as session:
            over = func.clock_timestamp() - timedelta(seconds=1)
            await session.execute(update(ApiKeyRow).where(ApiKeyRow.id == uuid.UUID(old["id"])).values(expires_at=over))
        for call in (before.get("/v2/models"), before.post("/chat/completions", json={"model": "m", **CHAT})):
            refused(await call, 401, "unauthenticated", "expired", "team_admin")
        assert (await after.get("/v2/models")).status_code == 200
    refused(await boss.post(f"/v2/team/keys/{old['id']}/rotate"), 409, "conflict", "rotated already")


async def test_a_revoked_key_opens_nothing_from_then_on(origin, boss, model):
    made = await make(boss)
    async with client(origin, made["key"]) as http:
        assert (await http.get("/v2/models")).status_code == 200
        assert (await boss.delete(f"/v2/team/keys/{made['id']}")).json()["revoked_at"]
        refused(await http.get("/v2/models"), 401, "unauthenticated", "revoked")
        refused(await http.post("/completions", json={"model": model["id"], "prompt": "x"}), 401, "unauthenticated")
        refused(await http.get(f"/v1/models/{model['id']}/train/losses"), 401, "unauthenticated")


async def test_a_team_admin_gains_nothing_from_an_operator_s_key_in_the_team(admin, boss, team_id):
    made = await admin.post("/v2/admin/keys", json={"team_id": team_id, "name": "root", "role": "admin"})
    key_id = made.json()["id"]
    refused(await boss.post(f"/v2/team/keys/{key_id}/rotate"), 403, "forbidden", "admin")
    refused(await boss.delete(f"/v2/team/keys/{key_id}"), 403, "forbidden")
    refused(await boss.post("/v2/team/keys", json={"name": "r", "role": "admin"}), 403, "forbidden")
    refused(await boss.post("/v2/team/keys", json={"name": "r", "scopes": ["admin"]}), 422, "invalid_request")


async def test_secrets_are_shown_once_and_lists_have_pages(boss):
    made = [(await make(boss, name=f"k{number}"))["id"] for number in range(5)]
    listed, cursor = list[str](), None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await boss.get("/v2/team/keys", params=query)).json()
        assert len(page["items"]) <= 2
        assert not any("key" in row or "key_hash" in row for row in page["items"])
        listed += [row["id"] for row in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert [key for key in listed if key in made] == made
    assert len(set(listed)) == len(listed)
    for nonsense in ("x", "W10", "WyIxIiwiMiJd", "é"):
        refused(await boss.get("/v2/team/keys", params={"cursor": nonsense}), 422, "invalid_request", "cursor")


async def test_it_is_noted_when_a_key_was_used(origin, boss, database):
    from server.auth.key_uses import KeyUses

    made = await make(boss)
    uses = KeyUses(database)
    uses.note(uuid.UUID(made["id"]))
    await uses.close()
    rows = (await boss.get("/v2/team/keys")).json()["items"]
    assert [row["last_used_at"] is not None for row in rows if row["id"] == made["id"]] == [True]


# Teams and quotas


async def set_quotas(admin: httpx.AsyncClient, team_id: str, **quotas: Any) -> dict[str, Any]:
    reply = await admin.put(f"/v2/admin/teams/{team_id}/quotas", json=quotas)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_a_team_with_all_its_models_gets_no_other(admin, team, team_id, model, base):
    assert (await set_quotas(admin, team_id, max_models=1))["usage"]["num_models"] == 1
    fork = {"source_model_id": str(base.id), "name": "one-more"}
    refused(await team.http.post("/v2/models/fork", json=fork), 403, "quota_full", "1 of its 1 models", "operator")
    assert (await set_quotas(admin, team_id, max_models=None))["quotas"]["max_models"] is None
    assert (await team.http.post("/v2/models/fork", json=fork)).status_code == 201


async def test_training_tokens_are_counted_and_end_with_the_quota_until_midnight(admin, team, team_id, model):
    assert (await team.train(model["id"], "forward-backward", batch())).status_code == 200
    used = (await team.http.get("/v2/team")).json()["usage"]["training_tokens_today"]
    assert used == 8, "two trajectories of two prompt and two output tokens"
    await set_quotas(admin, team_id, max_training_tokens_per_day=used)
    reply = await team.train(model["id"], "forward-backward", batch())
    refused(reply, 429, "quota_spent", "8 of its 8 training tokens", "00:00 UTC")
    assert 0 < int(reply.headers["Retry-After"]) <= 24 * 3600
    assert (await team.train(model["id"], "optim-step", {"learning_rate": 1e-3})).status_code == 200, "nothing is lost"


async def test_a_refused_batch_costs_nothing(team, model):
    assert (await team.train(model["id"], "forward-backward", {"inputs": []})).status_code == 422
    assert (await team.http.get("/v2/team")).json()["usage"]["training_tokens_today"] == 0


async def test_a_team_whose_storage_is_full_takes_no_step(admin, team, team_id, model, database):
    checkpoint = (await team.step(model["id"]))["checkpoint_id"]
    files = {"adapter/a": {"size": 700, "sha256": ""}, "state/s": {"size": 3000, "sha256": ""}}
    async with database.session() as session:
        mine = update(CheckpointRow).where(CheckpointRow.id == uuid.UUID(checkpoint))
        await session.execute(mine.values(manifest={"version": 1, "files": files}))
    assert (await set_quotas(admin, team_id, max_storage_bytes=3700))["usage"]["storage_bytes"] == 3700
    assert (await team.train(model["id"], "forward-backward", batch())).status_code == 200
    step = await team.train(model["id"], "optim-step", {"learning_rate": 1e-3})
    refused(step, 403, "quota_full", "3700 of its 3700 bytes", "gradients are kept")
    async with database.session() as session:
        thinned = update(CheckpointRow).where(CheckpointRow.id == uuid.UUID(checkpoint))
        await session.execute(thinned.values(state_removed_at=func.clock_timestamp()))
    assert (await team.http.get("/v2/team")).json()["usage"]["storage_bytes"] == 700
    assert (await team.train(model["id"], "optim-step", {"learning_rate": 1e-3})).status_code == 200


async def test_a_disabled_team_is_refused_until_it_is_enabled(admin, team, team_id, model):
    assert (await admin.patch(f"/v2/admin/teams/{team_id}", json={"disabled": True})).status_code == 200
    for call in (
        team.http.get("/v2/models"),
        team.http.post("/chat/completions", json={"model": model["id"], **CHAT}),
        team.train(model["id"], "forward-backward", batch()),
    ):
        refused(await call, 403, "forbidden", "disabled")
    assert (await admin.patch(f"/v2/admin/teams/{team_id}", json={"disabled": False})).status_code == 200
    assert (await team.http.get("/v2/models")).status_code == 200


async def test_a_team_that_has_something_is_removed_by_who_counts_it(admin, team, team_id, model, database):
    where, name = f"/v2/admin/teams/{team_id}", team.name
    await team.step(model["id"])
    async with database.session() as session:
        settings = {"config": RunConfig().model_dump(mode="json"), "stop": StopRules().model_dump(mode="json")}
        settings |= {"taskset": "t", "num_tasks": 0, "tasks": "[]", "job_id": uuid.uuid4(), "state": "paused"}
        key_id = await session.scalar(select(ApiKeyRow.id).where(ApiKeyRow.team_id == uuid.UUID(team_id)).limit(1))
        named = {"id": uuid.uuid4(), "team_id": uuid.UUID(team_id), "model_id": uuid.UUID(model["id"])}
        run = RunRow(**named, key_id=key_id, **settings)
        session.add(run)
    counted = (await admin.get(f"{where}/contents")).json()
    assert (counted["num_models"], counted["num_checkpoints"], counted["num_live_runs"]) == (1, 1, 1)
    for query in ({}, {"models": 1}, {"models": 0, "runs": 1}):
        refused(await admin.delete(where, params=query), 409, "conflict", "models=1, runs=1")
    assert (await team.http.get("/v2/models")).status_code == 200
    for _ in range(10):
        removed = await admin.delete(where, params={"models": 1, "runs": 1})
        if removed.status_code != 503:  # until the run has ended
            break
    assert removed.status_code == 204, removed.text
    refused(await team.http.get("/v2/models"), 401, "unauthenticated", "revoked")
    refused(await admin.get(where), 404, "not_found")
    refused(await admin.delete(where, params={"models": 0}), 404, "not_found")
    async with database.session() as session:
        assert (await session.get_one(ModelRow, uuid.UUID(model["id"]))).removed_at is not None
        assert (await session.get_one(RunRow, run.id)).state == "cancelled"
    assert (await admin.post("/v2/admin/teams", json={"name": name})).status_code == 201
    told = (await admin.get("/v2/admin/events", params={"team_id": team_id, "limit": 4})).json()["items"]
    assert {"remove_team", "delete_model", "cancel_run"} <= {event["action"] for event in told}


async def test_a_team_is_removed_only_while_it_has_nothing(admin, team_id, model):
    refused(await admin.delete(f"/v2/admin/teams/{team_id}"), 409, "conflict", "disable it")
    made = (await admin.post("/v2/admin/teams", json={"name": f"t-{uuid.uuid4().hex[:8]}"})).json()
    assert (await admin.delete(f"/v2/admin/teams/{made['id']}")).status_code == 204
    refused(await admin.get(f"/v2/admin/teams/{made['id']}"), 404, "not_found")
    told = (await admin.get("/v2/admin/events", params={"subject_id": made["id"]})).json()["items"]
    assert [event["action"] for event in told] == ["delete_team", "create_team"]
    own = (await admin.get("/v2/auth/me")).json()["team_id"]
    refused(await admin.patch(f"/v2/admin/teams/{own}", json={"disabled": True}), 409, "conflict", "your own key")


# Pauses, heads, draining


async def test_a_paused_model_is_sampled_and_not_trained(team, model):
    reply = await team.http.post(f"/v2/models/{model['id']}/pause", json={"reason": "look at the reward first"})
    assert reply.json()["pause_reason"] == "look at the reward first"
    for call, body in (("forward-backward", batch()), ("forward", batch()), ("optim-step", {"learning_rate": 1e-3})):
        refused(await team.train(model["id"], call, body), 409, "paused", "look at the reward first", "resume")
    assert (await team.http.post("/chat/completions", json={"model": model["id"], **CHAT})).status_code == 200
    assert (await team.http.post(f"/v2/models/{model['id']}/resume")).json()["paused_at"] is None
    assert (await team.train(model["id"], "forward-backward", batch())).status_code == 200


async def test_what_an_operator_paused_only_an_operator_resumes(admin, team, model, database):
    url = f"models/{model['id']}"
    assert (await admin.post(f"/v2/admin/{url}/pause", json={"reason": "billing"})).status_code == 200
    async with database.session() as session:
        await pause(session, uuid.UUID(model["id"]), "entropy fell", GUARD, "guard")
    refused(await team.http.post(f"/v2/{url}/resume"), 403, "forbidden", "operator")
    refused(await team.train(model["id"], "forward-backward", batch()), 409, "paused", "an operator")
    assert (await admin.post(f"/v2/admin/{url}/resume")).json()["paused_at"] is None
    assert (await team.train(model["id"], "forward-backward", batch())).status_code == 200


async def test_the_guard_s_pause_is_the_team_s_to_end(team, boss, model, database):
    async with database.session() as session:
        await pause(session, uuid.UUID(model["id"]), "entropy fell", GUARD, "guard")
    refused(await team.train(model["id"], "forward-backward", batch()), 409, "paused", "the guard: entropy fell")
    assert (await team.http.post(f"/v2/models/{model['id']}/resume")).status_code == 200
    events = (await boss.get("/v2/team/events", params={"subject_id": model["id"]})).json()["items"]
    assert [(event["action"], event["actor"].partition(" ")[0]) for event in events[:2]] == [
        ("resume", "test"),
        ("pause", "guard"),
    ]


async def test_an_operator_rolls_any_team_s_model_back_and_says_why(admin, team, boss, model):
    first, second = [(await team.step(model["id"]))["checkpoint_id"] for _ in range(2)]
    body = {"checkpoint_id": first, "reason": "the reward was gamed"}
    assert (await admin.put(f"/v2/admin/models/{model['id']}/head", json=body)).json()["checkpoint_id"] == first
    assert (await team.http.get(f"/v2/models/{model['id']}/head")).json()["checkpoint_id"] == first
    (event,) = (await boss.get("/v2/team/events", params={"action": "set_head"})).json()["items"]
    assert event["detail"] == {"from": second, "to": first, "reason": "the reward was gamed"}
    assert event["actor"].startswith("op (hw_")


async def test_the_log_of_a_team_holds_nothing_of_another(boss, other_team, base):
    await other_team.fork(str(base.id))
    own = (await boss.get("/v2/auth/me")).json()["team_id"]
    events = (await boss.get("/v2/team/events", params={"limit": 500})).json()["items"]
    assert events
    assert {event["team_id"] for event in events} == {own}


async def test_a_key_for_some_models_reads_what_was_done_to_these_alone(origin, boss, admin, team, model, base):
    other = await team.fork(str(base.id))
    made = await make(boss, role="team_admin", models=[model["id"]])
    async with client(origin, made["key"]) as http:
        events = (await http.get("/v2/team/events", params={"limit": 500})).json()["items"]
        assert {event["subject_id"] for event in events} == {model["id"]}
        for hidden in (other["id"], made["id"]):
            assert (await http.get("/v2/team/events", params={"subject_id": hidden})).json()["items"] == []


async def test_a_drained_sampler_gets_no_request_until_it_is_undrained(admin, team, model, base, database):
    async with database.session() as session:
        live = await session.scalars(select(SamplerRow.id).where(SamplerRow.base_id == base.id))
        sampler_ids = [str(sampler_id) for sampler_id in live]
    try:
        for sampler_id in sampler_ids:
            reply = await admin.post(f"/v2/admin/samplers/{sampler_id}/drain")
            assert (reply.status_code, bool(reply.json()["drained_at"])) == (200, True)
        refused(await team.http.post("/chat/completions", json={"model": model["id"], **CHAT}), 503, "unavailable")
        assert (await team.step(model["id"]))["step"] == 1, "with no sampler left the head moves all the same"
    finally:
        for sampler_id in sampler_ids:
            await admin.post(f"/v2/admin/samplers/{sampler_id}/undrain")
    assert (await team.http.post("/chat/completions", json={"model": str(base.id), **CHAT})).status_code == 200


async def test_a_base_is_registered_once_and_keeps_its_weights_once_forked(admin, base):
    name = f"b-{uuid.uuid4().hex[:8]}"
    made = await admin.post("/v2/admin/bases", json={"name": name, "weights": "org/one"})
    assert (made.status_code, made.json()["is_loaded"], name in made.json()["shortage"]) == (201, False, True)
    again = await admin.post("/v2/admin/bases", json={"name": name, "weights": "org/two"})
    assert (again.json()["id"], again.json()["weights"]) == (made.json()["id"], "org/two")
    for weights in ("../up", "a b", "", "~/x"):
        refused(await admin.post("/v2/admin/bases", json={"name": name, "weights": weights}), 422, "invalid_request")


async def test_models_of_all_teams_are_listed_to_operators(admin, team_id, model):
    page = (await admin.get("/v2/admin/models", params={"team_id": team_id})).json()
    assert [(row["id"], row["team_id"]) for row in page["items"]] == [(model["id"], team_id)]
    assert {row["state"] for row in (await admin.get("/v2/admin/trainers")).json()["items"]} <= {"live", "silent"}


async def test_a_model_of_nobody_cannot_be_paused(admin, base: ModelRow):
    refused(await admin.post(f"/v2/admin/models/{base.id}/pause", json={"reason": "x"}), 403, "forbidden", "base")
    refused(await admin.post(f"/v2/admin/models/{uuid.uuid4()}/pause", json={"reason": "x"}), 404, "model_not_found")
