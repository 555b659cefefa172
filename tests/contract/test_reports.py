"""Jobs, traces and telemetry are taken as they come; health and the rest of the surface."""

from __future__ import annotations

import json
import uuid

import pytest
from sqlalchemy import select

from store.blob_stores.file import FileBlobStore
from store.rollouts import read_spans
from store.tables import TraceRow
from tests.contract.test_models import no_samplers

SPAN = {"name": "step", "span_id": "ab" * 8, "attributes": {"hud.schema": "hud.step.v1"}}


async def trace_row(database, trace_id: uuid.UUID) -> TraceRow:
    async with database.session() as session:
        return (await session.scalars(select(TraceRow).where(TraceRow.id == trace_id))).one()


async def test_a_rollout_is_reported_in_any_order_and_any_number_of_times(team, database):
    trace, job = uuid.uuid4(), uuid.uuid4()
    left = {"status": "completed", "reward": 0.125, "stop_reason": "done", "evaluation_result": {"score": 0.125}}
    entered = {"job_id": job.hex, "group_id": "g", "task_slug": "t", "model": "m", "novel": [1]}
    for _ in range(2):
        assert (await team.http.post(f"/v2/trace/{trace.hex}/exit", json=left)).status_code == 200
        assert (await team.http.post(f"/v2/trace/{trace}/enter", json=entered)).status_code == 200
        assert (await team.http.post(f"/v2/trace/job/{job}/enter", json={"name": "j", "group": 8})).status_code == 200
    row = await trace_row(database, trace)
    assert (row.status, row.reward, row.job_id, row.group_id) == ("completed", 0.125, job, "g")
    assert row.extra == {"novel": [1]}
    assert row.entered_at
    assert row.exited_at
    shown = (await team.http.get(f"/v2/trace/{trace.hex}")).json()
    assert (shown["status"], shown["reward"]) == ("completed", 0.125)
    jobs = (await team.http.get("/v2/jobs?limit=20")).json()
    assert (jobs["total"], jobs["items"][0]["id"], jobs["items"][0]["status"]) == (1, str(job), "completed")
    traces = (await team.http.get(f"/v2/jobs/{job.hex}/traces")).json()
    assert traces["items"][0]["id"] == str(trace)


async def test_a_job_runs_until_it_has_rollouts_and_all_of_them_ended(team):
    job, traces = uuid.uuid4(), [uuid.uuid4(), uuid.uuid4()]

    async def status() -> str:
        return (await team.http.get("/v2/jobs")).json()["items"][0]["status"]

    await team.http.post(f"/v2/trace/job/{job}/enter", json={})
    assert await status() == "running"
    for trace in traces:
        await team.http.post(f"/v2/trace/{trace}/enter", json={"job_id": job.hex})
    await team.http.post(f"/v2/trace/{traces[0]}/exit", json={"status": "completed"})
    assert await status() == "running"
    await team.http.post(f"/v2/trace/{traces[1]}/exit", json={"status": "error"})
    assert await status() == "completed"


async def test_the_same_trace_id_of_another_team_is_another_trace(team, other_team):
    trace = uuid.uuid4().hex
    await team.http.post(f"/v2/trace/{trace}/exit", json={"status": "completed", "reward": 1.0})
    assert (await other_team.http.get(f"/v2/trace/{trace}")).status_code == 404
    await other_team.http.post(f"/v2/trace/{trace}/exit", json={"status": "error", "reward": 0.0})
    assert (await team.http.get(f"/v2/trace/{trace}")).json()["status"] == "completed"


async def test_telemetry_is_kept_once_under_both_spellings(team, database, tmp_path):
    trace = uuid.uuid4()
    for prefix in ("", "/v3/api"):
        reply = await team.http.post(f"{prefix}/trace/{trace.hex}/telemetry-upload", json={"telemetry": [SPAN]})
        assert reply.json() == {"accepted": 1}
    team_id = (await trace_row(database, trace)).team_id
    (kept,) = await read_spans(database, FileBlobStore(tmp_path), team_id, trace)
    assert kept.span == SPAN


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"telemetry": 1}', b"{", b"[" * 100_000 + b"]" * 100_000])
async def test_malformed_telemetry_is_refused(body, standing_team):
    reply = await standing_team.http.post(f"/trace/{uuid.uuid4().hex}/telemetry-upload", content=body[:99_000])
    assert reply.status_code == 422
    assert isinstance(reply.json()["detail"], str)


async def test_reports_that_are_nested_too_deeply_are_refused(team):
    path = f"/v2/trace/{uuid.uuid4()}"
    for levels, status in ((150, 200), (220, 422), (300, 422), (600, 422), (900, 422)):
        nested = '{"a":' * levels + "1" + "}" * levels
        result = await team.http.post(f"{path}/exit", content=f'{{"status": "x", "evaluation_result": {nested}}}')
        extra = await team.http.post(f"{path}/enter", content=f'{{"novel": {nested}}}')
        assert [result.status_code, extra.status_code] == [status, status], (levels, result.text, extra.text)
        if status == 422:
            assert "evaluation_result is nested too deeply" in result.json()["detail"]
            assert "the report is nested too deeply" in extra.json()["detail"]
    assert (await team.http.get(path)).status_code == 200


async def test_what_the_database_cannot_hold_is_no_server_error(team):
    trace = uuid.uuid4()
    odd = {"status": "com\x00pleted", "error": "\ud800", "evaluation_result": {"a\x00": float("nan"), "b": ["\x00"]}}
    reply = await team.http.post(f"/v2/trace/{trace}/exit", content=json.dumps(odd))
    assert reply.status_code == 200, reply.text
    assert (await team.http.get(f"/v2/trace/{trace}")).json()["evaluation_result"]["b"] == ["\ufffd"]
    assert (await team.http.post(f"/v2/trace/{trace}/exit", content='{"status": "x", "reward": NaN}')).status_code < 500
    assert (await team.http.post(f"/v2/trace/job/{trace}/enter", json={"group": 2**70})).status_code == 422
    assert (await team.http.post(f"/v2/trace/job/{trace}/enter", json={"name": "\x00"})).status_code == 200
    assert (await team.http.post("/v2/trace/nonsense/enter", json={})).status_code == 422


async def test_the_clis_event_needs_no_key(origin, team):
    team.http.headers.pop("Authorization")
    for prefix in ("", "/v3/api"):
        assert (await team.http.post(f"{prefix}/sdk-events/cli", json={"events": []})).status_code == 200


async def test_health_needs_no_key_and_readiness_says_what_is_missing(team, base, database):
    team.http.headers.pop("Authorization")
    assert (await team.http.get("/healthz")).json() == {"status": "ok"}
    ready = await team.http.get("/readyz")
    served = {"base": base.slug, "loaded": True, "trainers": 1, "samplers": 1, "queued": 0, "shortage": None}
    assert served in ready.json()["bases"]
    others = [other for other in ready.json()["bases"] if other != served]  # which other tests may have registered
    assert ready.status_code == (200 if all(o["trainers"] and o["samplers"] for o in others) else 503)
    async with no_samplers(database):
        assert (await team.http.get("/readyz")).status_code == 503
        assert (await team.http.get("/readyz/server")).json() == {"ready": True, "missing": []}


async def test_the_api_description_loads_nothing_from_elsewhere(team):
    page = (await team.http.get("/docs")).text
    assert "https://" not in page
    script = page.split('<script src="')[1].split('"')[0]
    assert (await team.http.get(script)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/responses"), ("GET", "/v2/models/"), ("GET", "/nothing"), ("GET", "/%00")],
)
async def test_anything_else_is_a_404_with_a_sentence(method, path, standing_team):
    reply = await standing_team.http.request(method, path, json={"model": "gpt-5"})
    assert reply.status_code == 404
    assert reply.json()["detail"]


async def test_a_wrong_method_is_a_405_with_a_sentence(team):
    reply = await team.http.delete("/v2/models")
    assert reply.status_code == 405
    assert reply.json()["detail"]


async def test_an_environment_that_is_not_deployed_is_refused_with_what_to_do(team):
    reply = await team.http.post("/runtime/sessions", json={"environment": "x"})
    assert reply.status_code == 404
    assert "deploy it with 'hud deploy'" in reply.json()["detail"]


async def test_a_request_id_is_taken_over_or_made(team):
    given = await team.http.get("/healthz", headers={"X-Request-Id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    odd = await team.http.get("/healthz", headers={"X-Request-Id": "a b\tc"})
    assert len(odd.headers["x-request-id"]) == 32
