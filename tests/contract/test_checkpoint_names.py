"""`tinker://` paths over HTTP: what they stand for, for whom, and for how long."""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from server.auth.service import authenticate
from server.checkpoint_names.resolving import resolve_path
from store.database import AsyncDatabase
from store.tables import CheckpointNameRow, CheckpointRow, ClientSessionRow, EventRow, ModelRow, TeamRow
from tests.contract.conftest import Team
from tests.contract.stand_ins import add_checkpoint
from tests.contract.test_pages import signed_in
from wire.errors import HeadwayError, InvalidRequest, NotFound

ROOT = "/api/v1"


class Run:
    """A training run of a team, as a client's session made it."""

    def __init__(self, team: Team, database: AsyncDatabase, model_id: UUID, session_id: str) -> None:
        self.team, self.database, self.model_id, self.id = team, database, model_id, f"{session_id}:train:0"
        self.session_id = session_id

    async def save(self, name: str, kind: str = "training", **values: Any) -> UUID:
        """A node of the tree under a name."""
        async with self.database.session() as session:
            checkpoint = await add_checkpoint(session, await session.get_one(ModelRow, self.model_id))
            named = {"model_id": self.model_id, "checkpoint_id": checkpoint.id, "kind": kind, "name": name}
            session.add(CheckpointNameRow(size_bytes=100, **named, **values))
            return checkpoint.id

    async def call(self, method: str, suffix: str, body: Any = None) -> Any:
        path = f"{ROOT}/training_runs/{self.id}{suffix}"
        return await self.team.http.request(method, path, json=body)

    async def resolve(self, path: str, use: Any = "reading", team: Team | None = None) -> str:
        """The node's name, or the code of the refusal."""
        async with self.database.session() as session:
            caller = await authenticate(session, (team or self.team).key)
            try:
                return (await resolve_path(session, caller, path, use)).checkpoint.name
            except HeadwayError as error:
                return error.code

    async def node(self, checkpoint_id: UUID) -> str:
        async with self.database.session() as session:
            return (await session.get_one(CheckpointRow, checkpoint_id)).name


async def make_run(team: Team, database: AsyncDatabase, base: ModelRow, **values: Any) -> Run:
    opened = await team.http.post(f"{ROOT}/create_session", json={"display_name": "night run"})
    session_id = opened.json()["session_id"]
    async with database.session() as session:
        opener = await session.get_one(ClientSessionRow, session_id)
        slug = f"run-{uuid.uuid4().hex[:8]}"
        lora = {"rank": 4, "alpha": 32, "init_seed": 0, "attn": True, "mlp": False, "unembed": True}
        numbered = {"session_id": session_id, "session_index": 0, "serves_head": False}
        model = ModelRow(team_id=opener.team_id, base_id=base.id, slug=slug, name=slug, lora=lora, **numbered, **values)
        session.add(model)
        await session.flush()
        return Run(team, database, model.id, session_id)


@pytest.fixture
async def run(team: Team, database: AsyncDatabase, base: ModelRow) -> Run:
    return await make_run(team, database, base, user_metadata={"model": "m", "step": 3})


async def test_a_path_stands_for_what_was_saved_under_it_by_run_id_model_id_and_slug(run: Run):
    saved = await run.save("000020")
    await run.save("000020", "sampler")
    async with run.database.session() as session:
        slug = (await session.get_one(ModelRow, run.model_id)).slug
    for name_of_run in (run.id, str(run.model_id), slug, slug.upper()):
        assert await run.resolve(f"tinker://{name_of_run}/weights/000020") == await run.node(saved)
    assert await run.resolve(f"tinker://{run.id}/sampler_weights/000020") != await run.node(saved)
    for missing in (f"{run.id}/weights/000021", f"{run.id[:-1]}1/weights/000020", f"{uuid.uuid4()}/weights/000020"):
        assert await run.resolve(f"tinker://{missing}") == NotFound.code


async def test_a_node_of_the_tree_has_paths_by_its_own_name(run: Run, team: Team, base: ModelRow):
    forked = await team.fork(str(base.id))
    await team.step(forked["id"])
    async with run.database.session() as session:
        query = select(CheckpointRow.name).where(CheckpointRow.model_id == UUID(forked["id"]))
        node = (await session.scalars(query)).one()
    for segment in ("weights", "sampler_weights"):
        assert await run.resolve(f"tinker://{forked['model_name']}/{segment}/{node}") == node
    listed = await team.http.get(f"{ROOT}/training_runs/{forked['id']}/checkpoints")
    ids = [row["checkpoint_id"] for row in listed.json()["checkpoints"]]
    assert ids == [f"weights/{node}", f"sampler_weights/{node}"]
    refused = await team.http.delete(f"{ROOT}/training_runs/{forked['id']}/checkpoints/weights/{node}")
    assert (refused.status_code, "node of the model's tree" in refused.text) == (422, True)


@pytest.mark.parametrize(
    ("path", "use", "sentence"),
    [
        ("tinker://{run}/sampler_weights/a", "training", "only a path with weights/ can be loaded for training"),
        ("tinker://{run}/weights/a", "sampling", "only a path with sampler_weights/ can be sampled"),
        ("tinker://{run}/external_weights/a", "sampling", "only a path with sampler_weights/ can be sampled"),
        ("tinker://{run}/weights/a/b", "training", "three parts"),
        ("{run}/weights/a", "training", "three parts"),
        ("tinker://{run}/elsewhere/a", "training", "begins with one of"),
        ("tinker://{run}/weights/a b", "training", "1 to 200 letters"),
        ("tinker://{run}/weights/..", "training", "1 to 200 letters"),
        ("tinker://\0/weights/a", "training", "begins with one of"),
    ],
)
async def test_other_paths_are_refused_with_a_sentence(run: Run, path: str, use: Any, sentence: str):
    async with run.database.session() as session:
        caller = await authenticate(session, run.team.key)
        with pytest.raises(InvalidRequest, match=sentence):
            await resolve_path(session, caller, path.format(run=run.id), use)


async def test_a_published_name_is_everybody_s_to_use_and_nobody_else_s_to_change(run: Run, other_team: Team):
    saved = await run.save("shared")
    path, where = f"tinker://{run.id}/weights/shared", "/checkpoints/weights/shared"
    assert await run.resolve(path, "training", other_team) == NotFound.code
    for _ in range(2):
        assert (await run.call("POST", f"{where}/publish")).status_code == 200
    assert await run.resolve(path, "training", other_team) == await run.node(saved)
    info = await other_team.http.post(f"{ROOT}/weights_info", json={"tinker_path": path})
    shape = {"lora_rank": 4, "train_attn": True, "train_mlp": False, "train_unembed": True}
    assert info.json() == {"base_model": "org/Tiny-Base", "is_lora": True, **shape}
    for method, suffix, body in [
        ("POST", "/publish", None),
        ("DELETE", "/publish", None),
        ("PUT", "/ttl", {"ttl_seconds": 3600}),
        ("DELETE", "", None),
    ]:
        url = f"{ROOT}/training_runs/{run.id}{where}{suffix}"
        assert (await other_team.http.request(method, url, json=body)).status_code == 404
    for suffix in ("", "/checkpoints"):
        assert (await other_team.http.get(f"{ROOT}/training_runs/{run.id}{suffix}")).status_code == 404
    assert (await other_team.http.get(f"{ROOT}/checkpoints")).json()["checkpoints"] == []
    for _ in range(2):
        assert (await run.call("DELETE", f"{where}/publish")).status_code == 200
    assert await run.resolve(path, "training", other_team) == NotFound.code
    async with run.database.session() as session:
        actions = await session.scalars(select(EventRow.action).where(EventRow.subject_id == saved))
        assert sorted(actions) == ["publish_checkpoint", "unpublish_checkpoint"]


async def test_an_expired_name_is_gone_at_once(run: Run):
    await run.save("brief")
    path, where = f"tinker://{run.id}/weights/brief", "/checkpoints/weights/brief"
    for beyond in (0, 3599, -1, 11 * 366 * 24 * 3600):
        refused = await run.call("PUT", f"{where}/ttl", {"ttl_seconds": beyond})
        assert (refused.status_code, "ttl_seconds" in refused.json()["detail"]) == (422, True)
    assert (await run.call("PUT", f"{where}/ttl", {"ttl_seconds": 3600})).status_code == 200
    (listed,) = (await run.call("GET", "/checkpoints")).json()["checkpoints"]
    left = datetime.fromisoformat(listed["expires_at"]) - datetime.fromisoformat(listed["time"])
    assert timedelta(minutes=59) < left < timedelta(minutes=61)
    assert (await run.call("PUT", f"{where}/ttl", {"ttl_seconds": None})).status_code == 200
    (listed,) = (await run.call("GET", "/checkpoints")).json()["checkpoints"]
    assert listed["expires_at"] is None
    async with run.database.session() as session:
        named = update(CheckpointNameRow).where(CheckpointNameRow.model_id == run.model_id)
        await session.execute(named.values(expires_at=func.clock_timestamp()))
    assert await run.resolve(path) == NotFound.code
    assert (await run.call("GET", "/checkpoints")).json()["checkpoints"] == []
    assert (await run.call("DELETE", where)).status_code == 404


async def test_a_deleted_name_is_gone_and_its_node_stays(run: Run):
    saved = await run.save("final", user_metadata={"a": "b"})
    await run.save("final", "sampler")
    assert (await run.call("DELETE", "/checkpoints/weights/final")).status_code == 200
    assert (await run.call("DELETE", "/checkpoints/weights/final")).status_code == 404
    assert (await run.call("DELETE", "/checkpoints/final")).status_code == 422
    (left,) = (await run.call("GET", "/checkpoints")).json()["checkpoints"]
    assert left["tinker_path"] == f"tinker://{run.id}/sampler_weights/final"
    assert await run.node(saved)


async def test_runs_are_described_with_what_was_saved_last(run: Run):
    for name in ("000001", "000002"):
        await run.save(name, user_metadata={"batch": name})
    await run.save("000002", "sampler")
    described = (await run.call("GET", "")).json()
    assert described["training_run_id"] == run.id
    assert (described["base_model"], described["lora_rank"]) == ("org/Tiny-Base", 4)
    assert described["model_owner"] == run.team.name
    assert described["user_metadata"] == {"model": "m", "step": "3"}
    last = described["last_checkpoint"]
    assert last["checkpoint_id"] == "weights/000002"
    assert (last["checkpoint_type"], last["size_bytes"], last["public"]) == ("training", 100, False)
    assert last["user_metadata"] == {"batch": "000002"}
    assert described["last_sampler_checkpoint"]["tinker_path"] == f"tinker://{run.id}/sampler_weights/000002"


async def test_lists_have_pages_newest_first(run: Run, database: AsyncDatabase, base: ModelRow):
    second = await make_run(run.team, database, base)
    for name in ("a", "b"):
        await run.save(name)
    await second.save("c", user_metadata={"kind": "last"})
    http = run.team.http
    page = (await http.get(f"{ROOT}/training_runs?limit=1&offset=1")).json()
    assert [row["training_run_id"] for row in page["training_runs"]] == [run.id]
    assert page["cursor"] == {"offset": 1, "limit": 1, "total_count": 2}
    page = (await http.get(f"{ROOT}/checkpoints?limit=2")).json()
    assert [row["checkpoint_id"] for row in page["checkpoints"]] == ["weights/c", "weights/b"]
    assert page["cursor"]["total_count"] == 3
    found = (await http.post(f"{ROOT}/checkpoints/search", json={"user_metadata": {"kind": "last"}})).json()
    assert [row["checkpoint_id"] for row in found["checkpoints"]] == ["weights/c"]
    first = (await http.post(f"{ROOT}/checkpoints/search", json={"limit": 2})).json()
    rest = (await http.post(f"{ROOT}/checkpoints/search", json={"cursor": first["next_cursor"]})).json()
    assert [row["checkpoint_id"] for row in rest["checkpoints"]] == ["weights/a"]
    assert rest["next_cursor"] is None


async def test_sessions_show_what_was_made_in_them(run: Run):
    http = run.team.http
    assert (await http.get(f"{ROOT}/sessions")).json() == {"sessions": [run.session_id]}
    shown = (await http.get(f"{ROOT}/sessions/{run.session_id}")).json()
    assert (shown["training_run_ids"], shown["sampler_ids"]) == ([run.id], [])
    assert shown["display_name"] == "night run"
    assert (await http.put(f"{ROOT}/sessions/{run.session_id}/project", json={"project_id": "p"})).status_code == 200
    runs = (await http.get(f"{ROOT}/training_runs?project_id=p")).json()["training_runs"]
    assert [one["training_run_id"] for one in runs] == [run.id]
    assert (await http.get(f"{ROOT}/training_runs?project_id=q")).json()["training_runs"] == []
    export = (await http.get(f"{ROOT}/sessions/{run.session_id}/trace_export")).json()
    assert (export["status"], "OpenTelemetry" in export["error"]) == ("failed", True)


async def test_sessions_are_found_by_name_status_and_page(run: Run, database: AsyncDatabase, base: ModelRow):
    http, second = run.team.http, await make_run(run.team, database, base)
    await run.save("a")
    finish = {"reason": {"type": "success"}, "detail": "done"}
    await http.post(f"{ROOT}/sessions/{run.session_id}/finish", json=finish)

    async def search(**body: Any) -> dict[str, Any]:
        reply = await http.post(f"{ROOT}/sessions/search", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    finished = await search(statuses=[{"type": "client_finished", "reasons": ["success"]}])
    assert [one["session_id"] for one in finished["sessions"]] == [run.session_id]
    summary = finished["sessions"][0]
    assert (summary["checkpoints_count"], summary["checkpoint_storage_bytes"]) == (1, 100)
    assert summary["status"] == {"type": "client_finished", "reason": {"type": "success"}, "detail": "done"}
    active = await search(statuses=[{"type": "active"}])
    assert [one["session_id"] for one in active["sessions"]] == [second.session_id]
    assert len((await search(display_name="RUN night"))["sessions"]) == 2
    assert (await search(display_name="day"))["sessions"] == []
    first = await search(limit=1)
    assert [one["session_id"] for one in first["sessions"]] == [second.session_id]
    rest = await search(limit=1, cursor=first["next_cursor"])
    assert [one["session_id"] for one in rest["sessions"]] == [run.session_id]
    assert rest["next_cursor"] is None


async def test_catalogs_show_a_run_once_something_was_saved_of_it(run: Run):
    async with run.database.session() as session:
        slug = (await session.get_one(ModelRow, run.model_id)).slug

    async def is_shown(path: str) -> bool:
        return slug in (await run.team.http.get(path)).text

    lists = ("/v2/models", "/v1/models", "/models/")
    assert [await is_shown(path) for path in lists] == [False, False, False]
    assert await is_shown(f"/v2/models/{run.model_id}")
    runs = await run.team.http.get(f"{ROOT}/training_runs")
    assert [one["training_run_id"] for one in runs.json()["training_runs"]] == [run.id]
    await run.save("final")
    assert [await is_shown(path) for path in lists] == [True, True, True]


async def test_runs_that_saved_nothing_use_no_quota(run: Run, base: ModelRow):
    async with run.database.session() as session:
        team = await session.get_one(TeamRow, (await session.get_one(ModelRow, run.model_id)).team_id)
        team.max_models = 1
    await run.team.fork(str(base.id))
    await run.save("final")
    refused = await run.team.http.post("/v2/models/fork", json={"source_model_id": str(base.id), "name": "third"})
    assert (refused.status_code, "2 of its 1 models" in refused.text) == (403, True)


async def test_pages_show_a_run_s_paths_and_what_was_noted(run: Run):
    saved = await run.save("final", published_at=func.clock_timestamp())
    async with signed_in(run.team.http.base_url, run.team.key) as browser:
        shown = (await browser.get(f"/models/{run.model_id}?tab=checkpoints")).text
        assert f"tinker://{run.id}/weights/final" not in shown
        node = await run.node(saved)
        shown = (await browser.get(f"/models/{run.model_id}?tab=checkpoints&node={node}")).text
    assert f"tinker://{run.id}/weights/final" in shown
    assert "published" in shown
    assert f'title="{run.id}"' in shown
    assert '<dt class="cut">step</dt><dd class="cut" title="3">3</dd>' in shown


async def test_a_run_s_page_says_what_its_name_samples_where_that_is_not_the_head(run: Run):
    first, second = await run.save("first"), await run.save("second")

    async def shown(head: UUID, served: UUID | None) -> str | None:
        values = {"head_checkpoint_id": head, "served_checkpoint_id": served}
        async with run.database.session() as session:
            await session.execute(update(ModelRow).where(ModelRow.id == run.model_id).values(values))
        async with signed_in(run.team.http.base_url, run.team.key) as browser:
            page = (await browser.get(f"/models/{run.model_id}")).text
        found = re.search(r"<dt>Served</dt><dd[^>]*>(?:<span[^>]*>)?([^<]+)", page)
        return found and found[1]

    assert await shown(second, None) == "base weights"
    assert await shown(second, first) == await run.node(first)
    assert await shown(second, second) is None


async def test_a_copy_is_the_copier_s_and_outlives_its_source(run: Run, other_team: Team):
    saved = await run.save("final", user_metadata={"a": "b"}, published_at=func.clock_timestamp())
    ask = {"source_path": f"tinker://{run.id}/weights/final", "ttl_seconds": 3600}

    async def copy(key: str) -> str:
        reply = await other_team.http.post(f"{ROOT}/copy_weights", json=ask, headers={"X-Idempotency-Key": key})
        assert reply.status_code == 200, reply.text
        return reply.json()["tinker_path"]

    path = await copy("1")
    assert await copy("1") == path
    assert await copy("2") != path
    await run.call("DELETE", "/checkpoints/weights/final/publish")
    await run.call("DELETE", "/checkpoints/weights/final")
    async with run.database.session() as session:
        copied = await resolve_path(session, await authenticate(session, other_team.key), path, "training")
        assert (copied.checkpoint.files_id, copied.user_metadata) == (saved, {"a": "b"})
        assert copied.expires_at is not None
    assert await run.resolve(path) == NotFound.code
    listed = (await other_team.http.get(f"{ROOT}/checkpoints")).json()["checkpoints"]
    assert path in [one["tinker_path"] for one in listed]
    gone = await other_team.http.post(f"{ROOT}/copy_weights", json=ask)
    assert gone.status_code == 404


async def test_a_copy_may_be_a_run_of_a_session(run: Run):
    await run.save("final", "sampler")
    body = {"source_path": f"tinker://{run.id}/sampler_weights/final", "session_id": run.session_id}
    incomplete = await run.team.http.post(f"{ROOT}/copy_weights", json=body)
    assert (incomplete.status_code, "go together" in incomplete.text) == (422, True)
    reply = await run.team.http.post(f"{ROOT}/copy_weights", json={**body, "model_seq_id": 1})
    assert reply.json()["tinker_path"] == f"tinker://{run.session_id}:train:1/sampler_weights/final"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/sessions/search", {"session_id": "a\0b"}),
        ("POST", "/sessions/search", {"display_name": "a\0b"}),
        ("POST", "/sessions/search", {"project_ids": ["a\0b"]}),
        ("POST", "/sessions/search", {"user_metadata": {"a": "\0"}}),
        ("POST", "/sessions/search", {"cursor": {"last_created_at": "0001-01-01T00:00:00Z", "last_session_id": "\0"}}),
        ("POST", "/checkpoints/search", {"user_metadata": {"\ud800": 1}}),
        ("POST", "/checkpoints/search", {"cursor": "a\0b"}),
        ("POST", "/weights_info", {"tinker_path": "tinker://a\0b/weights/c"}),
        ("POST", "/copy_weights", {"source_path": "tinker://a\0b/weights/c"}),
        ("PUT", "/sessions/{session}/project", {"project_id": "a\0b"}),
        ("PUT", "/training_runs/a%00b/checkpoints/weights/c/ttl", {"ttl_seconds": None}),
        ("DELETE", "/training_runs/a/checkpoints/weights/c%00", None),
    ],
)
async def test_what_the_database_cannot_hold_is_refused(run: Run, method: str, path: str, body: Any):
    url = f"{ROOT}{path.format(session=run.session_id)}"
    reply = await run.team.http.request(method, url, content=None if body is None else json.dumps(body))
    assert reply.status_code < 500, reply.text
