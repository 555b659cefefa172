"""What is deleted or imported, and the line of the audit log that says so, are one: neither is there without the
other, wherever the work is broken off."""

from __future__ import annotations

import base64
import errno
import json
import random
import uuid
from typing import Any

import psycopg
import pytest
from sqlalchemy import select

from server.audit.lines import GrowingLine
from server.audit.recording import Actor
from store.blob_stores.file import FileBlobStore
from store.rollouts import changing
from store.tables import EventRow
from tests.contract.test_export import GOOD, bring, rows
from tests.contract.test_training_by_id import TURNS, roll_out


async def audited(database: Any, team: Any) -> list[tuple[str, str | None, Any]]:
    """Action, subject and detail of every line about the team's rollouts, oldest first."""
    team_id = uuid.UUID((await team.http.get("/v2/auth/me")).json()["team_id"])
    query = select(EventRow).where(EventRow.team_id == team_id).order_by(EventRow.id)
    async with database.session() as session:
        found = (await session.scalars(query)).all()
    about = ("delete_trace", "delete_job", "import_traces")
    return [(e.action, e.subject_id and str(e.subject_id), e.detail) for e in found if e.action in about]


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changing, "_DELETE_TRACES", changing._DELETE_TRACES.replace("limit 1000", "limit 2"))


@pytest.fixture
def lines_fail(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From the n-th on, lines cannot be written."""
    real, count = GrowingLine.write, 0

    def arm(nth: int) -> None:
        async def failing(self: GrowingLine, connection: Any, **detail: int) -> None:
            nonlocal count
            count += 1
            if count >= nth:
                raise psycopg.OperationalError("the connection is lost")
            await real(self, connection, **detail)

        monkeypatch.setattr(GrowingLine, "write", failing)

    return arm


async def new_job(team: Any, num_traces: int) -> str:
    job = str(uuid.uuid4())
    await team.http.post(f"/v2/trace/job/{job}/enter", json={"name": "j"})
    for _ in range(num_traces):
        await roll_out(team, TURNS[:1], job_id=job)
    return job


async def num_traces(team: Any, job: str) -> int:
    return (await team.http.get(f"/v2/jobs/{job}/traces")).json()["total"]


async def test_deletions_are_told_once_each(team, database, small_portions):
    trace, job = str(uuid.UUID(await roll_out(team, TURNS[:1]))), await new_job(team, 5)
    assert (await team.http.delete(f"/v2/traces/{trace}")).status_code == 200
    assert (await team.http.delete(f"/v2/traces/{trace}")).status_code == 404
    assert (await team.http.delete(f"/v2/jobs/{job}")).json() == {"traces_deleted": 5}
    assert (await team.http.delete(f"/v2/jobs/{job}")).status_code == 404
    empty = await new_job(team, 0)
    assert (await team.http.delete(f"/v2/jobs/{empty}")).json() == {"traces_deleted": 0}
    assert await audited(database, team) == [
        ("delete_trace", trace, None),
        ("delete_job", job, {"traces_deleted": 5}),
        ("delete_job", empty, {"traces_deleted": 0}),
    ]


async def test_a_trace_whose_deletion_cannot_be_told_stays(team, database, lines_fail):
    trace = await roll_out(team, TURNS[:1])
    lines_fail(1)
    assert (await team.http.delete(f"/v2/traces/{trace}")).status_code == 503
    assert (await team.http.get(f"/v2/traces/{trace}")).status_code == 200
    assert await audited(database, team) == []


async def test_a_job_s_deletion_that_breaks_off_tells_what_went(team, database, small_portions, lines_fail):
    job = await new_job(team, 5)
    lines_fail(3)
    assert (await team.http.delete(f"/v2/jobs/{job}")).status_code == 503
    assert await num_traces(team, job) == 1
    assert await audited(database, team) == [("delete_job", job, {"traces_deleted": 4})]


async def test_an_import_that_breaks_off_tells_what_came(team, database, lines_fail):
    lines = [{**GOOD, "reward": float(n)} for n in range(4)]
    lines_fail(3)
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    assert (await team.http.post("/v2/traces/import", content=body)).status_code == 503
    assert len(await rows(team)) == 2
    assert await audited(database, team) == [("import_traces", None, {"imported": 2, "rescored": 0})]


async def test_an_import_is_one_line_with_what_changed(team, database):
    assert (await bring(team, GOOD, {**GOOD, "reward": 0.5}, {}, job="j"))["imported"] == 2
    job, (first, second) = (await team.http.get("/v2/jobs")).json()["items"][0]["id"], await rows(team)
    await bring(team, first, second)
    again = await bring(team, first, {**second, "reward": 0.25}, {**GOOD, "reward": 7.0}, rescore=True)
    assert (again["unchanged"], again["rescored"], again["imported"]) == (1, 1, 1)
    assert await audited(database, team) == [
        ("import_traces", job, {"imported": 2, "rescored": 0}),
        ("import_traces", None, {"imported": 1, "rescored": 1}),
    ]


async def test_an_import_that_the_disk_does_not_take_is_refused_and_taken_later(team, database, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    answer = base64.b64encode(random.Random(0).randbytes(70_000)).decode()  # too large for a row
    request = json.dumps({"preamble": {}, "messages": [], "reply": {"content": answer}})
    turn = {name: value for name, value in GOOD.items() if name != "reward"}
    large = {"reward": 1.0, "turns": [{**turn, "served_at": "2026-01-02T03:04:05Z", "request": request}]}
    body = b"".join(json.dumps(line).encode() + b"\n" for line in (GOOD, large, {**GOOD, "reward": 0.5}))
    with monkeypatch.context() as patch:
        patch.setattr(FileBlobStore, "put", full)
        refused = await team.http.post("/v2/traces/import", content=body)
    assert refused.status_code == 503
    assert "No space left on device" in refused.json()["detail"]
    assert [row["reward"] for row in await rows(team)] == [0.0], "what came before it is recorded, nothing after it"
    taken = (await team.http.post("/v2/traces/import", content=body)).json()
    assert (taken["imported"], taken["unchanged"]) == (2, 1)
    assert answer in json.dumps(await rows(team))
    assert [line for _, _, line in await audited(database, team)] == [
        {"imported": 1, "rescored": 0},
        {"imported": 2, "rescored": 0},
    ]


async def test_a_line_whose_transaction_was_rolled_back_is_written_again(team, database):
    team_id = uuid.UUID((await team.http.get("/v2/auth/me")).json()["team_id"])
    line = GrowingLine(Actor(name="test"), "delete_job", team_id=team_id)
    async with database.connection() as connection:
        async with connection.transaction(force_rollback=True):
            await line.write(connection, traces_deleted=1)
        for number in (1, 2):
            async with connection.transaction():
                await line.write(connection, traces_deleted=number)
    assert await audited(database, team) == [("delete_job", None, {"traces_deleted": 2})]
