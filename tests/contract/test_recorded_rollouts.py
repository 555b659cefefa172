"""What the gateway and telemetry record, as it is listed, read, cancelled, pinned and deleted."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import json
import random
import uuid
from typing import Any

import pytest
from sqlalchemy import func, select

from server.sampling.recorder import NOT_RECORDED, Recorder
from server.sampling.recorder import Served as ServedCompletion
from store.blob_stores.file import FileBlobStore
from store.database import AsyncDatabase
from store.tables import SampleRow, SpanRow, TraceRow
from tests.contract.test_training_by_id import COMPLETED, TURNS, roll_out, sampled, spans

HELLO = [{"role": "user", "content": "hi"}]


async def ask(team: Any, model: dict[str, Any], trace: str, path: str = "/chat/completions", **body: Any) -> Any:
    what = {"messages": HELLO} if path == "/chat/completions" else {"prompt": "hi"}
    headers = {"Trace-Id": trace}
    return await team.http.post(path, json={"model": model["model_name"], **what, **body}, headers=headers)


async def detail(team: Any, trace: str) -> dict[str, Any]:
    reply = await team.http.get(f"/v2/traces/{trace}")
    assert reply.status_code == 200, reply.text
    return reply.json()


async def num_rows(database: Any, kind: Any, trace: str) -> int:
    async with database.session() as session:
        query = select(func.count()).select_from(kind).where(kind.trace_id == uuid.UUID(trace))
        return await session.scalar(query) or 0


async def test_a_completion_is_on_record_when_its_answer_comes(team, model):
    trace, extra = uuid.uuid4().hex, {"return_token_ids": True, "logprobs": True, "temperature": 0.5}
    reply = (await ask(team, model, trace, **extra)).json()
    shown = await detail(team, str(uuid.UUID(trace)))
    (turn,), (choice,) = shown["turns"], reply["choices"]
    assert turn["prompt_token_ids"] == choice["prompt_token_ids"]
    assert turn["output_token_ids"] == choice["token_ids"]
    assert turn["output_logprobs"] == pytest.approx([one["logprob"] for one in choice["logprobs"]["content"]])
    assert turn["messages"] == HELLO
    assert turn["reply"]["content"] == choice["message"]["content"]
    assert (turn["model_id"], turn["checkpoint_id"], turn["sampling"]["temperature"]) == (model["id"], None, 0.5)
    assert turn["finish_reason"] in ("stop", "length")
    assert (shown["turns_from"], shown["status"], shown["model"]) == ("gateway", "running", model["model_name"])
    assert shown["num_turns"] == 1


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_every_kind_of_completion_is_recorded_with_its_checkpoint(path, stream, n, team, model):
    await team.step(model["id"])
    (checkpoint,) = (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()
    trace = uuid.uuid4().hex
    reply = await ask(team, model, trace, path, stream=stream, n=n)
    assert reply.status_code == 200, reply.text
    shown = await detail(team, trace)
    served = [*shown["turns"], *shown["other_samples"]]
    assert {one["checkpoint_id"] for one in served} == {checkpoint["id"]}
    assert shown["checkpoint_ids"] == [checkpoint["id"]]
    assert 1 <= len(served) <= n, "equal answers are one sample"
    listed = (await team.http.get("/v2/traces", params={"checkpoint_id": checkpoint["id"]})).json()["items"]
    assert [one["id"] for one in listed] == [str(uuid.UUID(trace))]


async def test_without_a_trace_id_nothing_is_recorded(team, model):
    for headers in ({}, {"Trace-Id": "no-uuid"}, {"Trace-Id": ""}):
        body = {"model": model["model_name"], "messages": HELLO}
        assert (await team.http.post("/chat/completions", json=body, headers=headers)).status_code == 200
    assert (await team.http.get("/v2/traces")).json()["items"] == []


async def test_trouble_with_recording_costs_no_completion_and_is_flagged(team, database, tmp_path):
    trace = uuid.uuid4()
    await team.http.post(f"/v2/trace/{trace}/enter", json={})
    async with database.session() as session:
        team_id = (await session.scalars(select(TraceRow).where(TraceRow.id == trace))).one().team_id
    away = AsyncDatabase("postgresql://nobody@127.0.0.1:1/nothing")
    recorder = Recorder(away, FileBlobStore(tmp_path), patience_s=0.3)
    recorder.start()
    lost = ServedCompletion(team_id, trace, "m", 0, list)
    async with asyncio.timeout(20):
        await recorder.keep(lost)
        assert (recorder.num_lost, recorder.num_recorded) == (1, 0)
        recorder.database = database
        await recorder.keep(ServedCompletion(team_id, uuid.uuid4(), "m", 0, list))
    await recorder.close()
    await away.close()
    assert recorder.num_recorded == 1
    assert (await detail(team, trace.hex))["flags"] == [NOT_RECORDED]


async def test_one_completion_that_cannot_be_recorded_costs_the_others_nothing(team, database, tmp_path):
    trace = uuid.uuid4()
    await team.http.post(f"/v2/trace/{trace}/enter", json={})
    async with database.session() as session:
        team_id = (await session.scalars(select(TraceRow).where(TraceRow.id == trace))).one().team_id

    def broken() -> list:
        raise RuntimeError("bug")

    recorder = Recorder(database, FileBlobStore(tmp_path), patience_s=60)
    batch = [ServedCompletion(team_id, trace, "m", 0, make) for make in (list, broken, list)]
    waiting = [asyncio.create_task(recorder.keep(one)) for one in batch]
    await asyncio.sleep(0)
    recorder.start()
    await asyncio.gather(*waiting)
    await recorder.close()
    assert (recorder.num_recorded, recorder.num_lost) == (2, 1)


async def test_a_rollout_that_somebody_holds_does_not_hold_up_the_others(team, database, tmp_path):
    trace = uuid.uuid4()
    await team.http.post(f"/v2/trace/{trace}/enter", json={})
    recorder = Recorder(database, FileBlobStore(tmp_path))
    recorder.start()
    async with database.session() as session:
        held = (await session.scalars(select(TraceRow).where(TraceRow.id == trace).with_for_update())).one()
        stuck = asyncio.create_task(recorder.keep(ServedCompletion(held.team_id, trace, "m", 0, list)))
        await asyncio.sleep(0.05)  # a batch of its own
        async with asyncio.timeout(3):
            for num_bytes in (0, 0, 10**6):
                await recorder.keep(ServedCompletion(held.team_id, uuid.uuid4(), "m", num_bytes, list))
        assert not stuck.done()
    await stuck
    await recorder.close()
    assert (recorder.num_recorded, recorder.num_lost) == (4, 0)


async def test_lists_filter_and_page(team, model):
    job = uuid.uuid4()
    await team.http.post(f"/v2/trace/job/{job}/enter", json={"name": "j"})
    traces = [
        await roll_out(team, TURNS, {"status": "completed", "reward": n / 4}, job_id=job.hex, task_slug=f"t{n % 2}")
        for n in range(5)
    ]
    other = await sampled(team, model)

    async def found(**params: Any) -> list[str]:
        seen: list[str] = []
        cursor = None
        while True:
            more = {"cursor": cursor} if cursor else {}
            page = (await team.http.get("/v2/traces", params={**params, **more, "limit": 2})).json()
            seen += [uuid.UUID(one["id"]).hex for one in page["items"]]
            if (cursor := page["next_cursor"]) is None:
                return seen

    assert await found() == [other, *traces[::-1]]
    assert await found(job_id=job.hex) == traces[::-1]
    assert await found(task_slug="t1") == [traces[3], traces[1]]
    assert await found(min_reward=0.5, max_reward=0.75) == [traces[3], traces[2]]
    assert await found(model_id=model["id"]) == [other]
    assert await found(status="running") == []
    page = (await team.http.get(f"/v2/jobs/{job}/traces?limit=2")).json()
    assert (page["total"], len(page["items"])) == (5, 2)
    rest = (await team.http.get(f"/v2/jobs/{job}/traces", params={"limit": 9, "cursor": page["next_cursor"]})).json()
    assert [one["id"] for one in rest["items"]] == [str(uuid.UUID(trace)) for trace in traces[2::-1]]
    for bad in ("cursor=x", "limit=0", "min_reward=nan", "status=odd", "job_id=x"):
        assert (await team.http.get(f"/v2/traces?{bad}")).status_code == 422, bad


async def test_events_are_what_the_agent_said_and_its_tools_answered(team, model):
    trace = uuid.uuid4()
    steps = [
        {"step_id": 1, "source": "agent", "content": "go\ud800", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
        {"step_id": 2, "source": "tool", "call": {"name": "f", "arguments": {"x": 1}}, "result": {"isError": True}},
        {"step_id": 3, "source": "tool", "call": 7, "result": {"content": [{"text": "a"}, {"text": 1}, None]}},
        {"step_id": 4, "source": "agent", "content": None, "tool_calls": [None, 3, {"name": 1, "arguments": "x"}]},
    ]
    sent = [
        {"span_id": f"{n}", "attributes": {"hud.schema": "hud.step.v1", "hud.payload": step}}
        for n, step in enumerate(steps)
    ]
    body = json.dumps({"telemetry": [*sent[::-1], None, {"span_id": "odd"}]})
    assert (await team.http.post(f"/trace/{trace}/telemetry-upload", content=body)).json() == {"accepted": 6}
    events = (await team.http.get(f"/v2/trace/{trace}/events")).json()["events"]
    assert [event["kind"] for event in events] == ["agent_message", "tool_call", "tool_call", "agent_message"]
    assert events[0]["tool_calls"] == [{"name": "f", "arguments": {"x": 1}}]
    assert events[1]["error"] == "the tool failed"
    assert events[2]["result_text"] == "a"
    assert (await team.http.get(f"/v2/trace/{uuid.uuid4()}/events")).status_code == 404
    kept = (await team.http.get(f"/v2/traces/{trace}/spans")).json()["spans"]
    assert sorted(str(one["flag"]) for one in kept) == ["None"] * 5 + ["not_an_object"]
    assert (await detail(team, trace.hex))["flags"] == ["not_an_object"]
    by_gateway = await sampled(team, model)
    (event,) = (await team.http.get(f"/v2/trace/{by_gateway}/events")).json()["events"]
    assert event["kind"] == "agent_message"
    assert event["text"]


@pytest.mark.parametrize(
    "body",
    [
        {"telemetry": [{"span_id": "a", "name": "x" * 90_000}]},
        {"telemetry": [{"span_id": "\x00", "attributes": {"hud.schema": "\x00"}}]},
        {"telemetry": [{"span_id": "a", "attributes": {"hud.schema": "hud.step.v9", "hud.payload": 1e308}}]},
        {"telemetry": [{"span_id": "a", "start_time": "9999-99-99", "end_time": -1, "attributes": []}]},
        {"telemetry": [{"span_id": "a"}, {"span_id": "a", "name": "b"}, {"span_id": "a"}]},
        {"telemetry": [[], 1, None, "x", float("nan")]},
        {"telemetry": []},
    ],
)
async def test_odd_uploads_are_kept(body, standing_team):
    trace = uuid.uuid4().hex
    reply = await standing_team.http.post(f"/trace/{trace}/telemetry-upload", content=json.dumps(body))
    assert reply.status_code == 200, reply.text
    assert reply.json() == {"accepted": len(body["telemetry"])}
    if body["telemetry"]:
        kept = (await standing_team.http.get(f"/v2/traces/{trace}/spans")).json()["spans"]
        assert len(kept) == len({json.dumps(one) for one in body["telemetry"]})


async def test_an_upload_that_the_disk_does_not_take_is_refused_and_taken_later(team, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    trace, words = uuid.uuid4(), base64.b64encode(random.Random(0).randbytes(71_000)).decode()  # too large for a row
    step = {"source": "agent", "step_id": 1, "content": words}
    span = {
        "name": "s", "trace_id": trace.hex, "span_id": "0" * 15 + "1", "status_code": "OK",
        "attributes": {"hud.task_run_id": trace.hex, "hud.schema": "hud.step.v1", "hud.payload": step},
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(FileBlobStore, "put", full)
        refused = await team.http.post(f"/trace/{trace.hex}/telemetry-upload", json={"telemetry": [span]})
    assert refused.status_code == 503
    assert "No space left on device" in refused.json()["detail"]
    assert (await team.http.get("/v2/traces")).json()["items"] == []
    taken = await team.http.post(f"/trace/{trace.hex}/telemetry-upload", json={"telemetry": [span]})
    assert taken.status_code == 200
    kept = (await team.http.get(f"/v2/traces/{trace}/spans")).json()
    assert words in json.dumps(kept)


async def test_a_compressed_upload_is_refused_before_it_is_unpacked(standing_team):
    bomb = gzip.compress(b" " * 10_000_000)
    for encoding in ("gzip", "br, gzip"):
        headers = {"Content-Encoding": encoding}
        url = f"/trace/{uuid.uuid4().hex}/telemetry-upload"
        reply = await standing_team.http.post(url, content=bomb, headers=headers)
        assert reply.status_code == 415
        assert "send plain JSON" in reply.json()["detail"]


async def test_a_deleted_trace_is_gone_with_all_that_was_recorded(team, other_team, model, database):
    trace = await roll_out(team)
    assert (await other_team.http.delete(f"/v2/traces/{trace}")).status_code == 404
    assert (await num_rows(database, SampleRow, trace), await num_rows(database, SpanRow, trace)) == (2, 2)
    assert (await team.http.delete(f"/v2/traces/{trace}")).json() == {"traces_deleted": 1}
    assert (await num_rows(database, SampleRow, trace), await num_rows(database, SpanRow, trace)) == (0, 0)
    for path in (f"/v2/trace/{trace}", f"/v2/traces/{trace}", f"/v2/traces/{trace}/spans"):
        assert (await team.http.get(path)).status_code == 404
    assert (await team.http.delete(f"/v2/traces/{trace}")).status_code == 404


async def test_jobs_are_pinned_cancelled_and_deleted(team, other_team):
    job = uuid.uuid4()
    await team.http.post(f"/v2/trace/job/{job}/enter", json={"name": "j", "group": 4})
    done = await roll_out(team, job_id=job.hex)
    running = [await roll_out(team, TURNS, None, job_id=job.hex) for _ in range(2)]
    assert (await team.http.get(f"/v2/jobs/{job}")).json()["status"] == "running"
    assert (await team.http.put(f"/v2/jobs/{job}/pin")).json() == {"pinned": True}
    assert (await team.http.get("/v2/jobs")).json()["items"][0]["pinned"]
    assert (await team.http.delete(f"/v2/jobs/{job}/pin")).json() == {"pinned": False}
    assert (await team.http.put(f"/v2/traces/{done}/pin")).json() == {"pinned": True}
    one = await team.http.post("/v2/rollouts/cancel", json={"trace_id": running[0], "job_id": str(job)})
    assert one.json() == {"status": "accepted"}
    again = await team.http.post("/v2/rollouts/cancel", json={"trace_id": running[0]})
    assert again.json() == {"status": "not_found"}
    foreign = await other_team.http.post("/v2/rollouts/cancel_job", json={"job_id": str(job)})
    assert foreign.json() == {"cancelled": 0}
    everything = (await team.http.post("/v2/rollouts/cancel_user_jobs", json={})).json()
    assert everything == {
        "jobs_cancelled": 1,
        "total_tasks_cancelled": 1,
        "job_details": [{"job_id": str(job), "cancelled": 1}],
    }
    assert (await team.http.get(f"/v2/jobs/{job}")).json()["status"] == "completed"
    await team.http.post(f"/v2/trace/{running[0]}/exit", json=COMPLETED)
    assert (await team.http.get(f"/v2/trace/{running[0]}")).json()["status"] == "completed"
    assert (await other_team.http.delete(f"/v2/jobs/{job}")).status_code == 404
    assert (await team.http.delete(f"/v2/jobs/{job}")).json() == {"traces_deleted": 3}
    assert (await team.http.get(f"/v2/jobs/{job}/traces")).status_code == 404
    assert (await team.http.delete(f"/v2/jobs/{job}")).status_code == 404


async def test_both_roads_show_one_turn(team, model):
    trace = uuid.uuid4()
    reply = (await ask(team, model, trace.hex, return_token_ids=True, logprobs=True)).json()
    (choice,) = reply["choices"]
    told = {
        "prompt_token_ids": choice["prompt_token_ids"],
        "output_token_ids": choice["token_ids"],
        "output_logprobs": [one["logprob"] for one in choice["logprobs"]["content"]],
    }
    await team.http.post(f"/trace/{trace.hex}/telemetry-upload", json={"telemetry": spans(trace, [told])})
    shown = await detail(team, trace.hex)
    assert (len(shown["turns"]), shown["other_samples"], shown["turns_from"]) == (1, [], "telemetry")
    assert shown["turns"][0]["step_id"] == 1
    assert shown["turns"][0]["messages"] == HELLO
