"""Training by trace id: the same batch as inline, or a refusal that names the trace."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import select, update

from server.evals.service import evaluation_traces
from store.tables import ModelRow, OperationRow, TraceRow
from tests.contract.conftest import batch, num_operations, sample, trajectory
from wire.datum_payload import decode_datums

TURNS = [
    sample(),
    sample(prompt_token_ids=[1, 2, 7, 9, 3], output_token_ids=[4, 5, 6], output_logprobs=[-0.5, -0.25, -1e-3]),
]
COMPLETED = {"status": "completed", "reward": 1.0}


def spans(trace: uuid.UUID, samples: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": "step",
            "span_id": f"{number:016x}",
            "attributes": {
                "hud.task_run_id": trace.hex,
                "hud.schema": "hud.step.v1",
                "hud.payload": {"step_id": number, "source": "agent", "sample": one},
            },
        }
        for number, one in enumerate(samples, 1)
    ]


async def roll_out(team: Any, samples: Any = TURNS, left: Any = COMPLETED, **entered: Any) -> str:
    """A rollout as the SDK reports it, without the gateway."""
    trace = uuid.uuid4()
    await team.http.post(f"/v2/trace/{trace.hex}/enter", json={"job_id": uuid.uuid4().hex, **entered})
    reply = await team.http.post(f"/trace/{trace.hex}/telemetry-upload", json={"telemetry": spans(trace, samples)})
    assert reply.status_code == 200, reply.text
    if left is not None:
        await team.http.post(f"/v2/trace/{trace.hex}/exit", json=left)
    return trace.hex


async def payloads(database: Any, model: dict[str, Any]) -> list[bytes]:
    async with database.session() as session:
        query = select(OperationRow.payload).where(OperationRow.model_id == uuid.UUID(model["id"]))
        return list(await session.scalars(query.order_by(OperationRow.sequence)))


async def test_a_trace_id_is_the_same_batch_as_its_samples_inline(team, model, database):
    first, second = await roll_out(team), await roll_out(team, TURNS[:1], {"status": "completed", "reward": 0.0})
    inline = [trajectory(samples=TURNS, trace_id=first), trajectory(samples=TURNS[:1], reward=0.0, trace_id=second)]
    by_id = [first, str(uuid.UUID(second)).upper()]
    for inputs in (inline, by_id, [inline[0], by_id[1]]):
        reply = await team.train(model["id"], "forward-backward", batch(*inputs, group_size=2))
        assert reply.status_code == 200, reply.text
    (one, two, mixed) = (decode_datums(payload)[0] for payload in await payloads(database, model))
    for other in (two, mixed):
        for ours, theirs in zip(one, other, strict=True):
            assert ours.origin == theirs.origin
            for mine, found in zip(ours.turns(), theirs.turns(), strict=True):
                assert mine.prompt_ids.tobytes() == found.prompt_ids.tobytes()
                assert mine.output_ids.tobytes() == found.output_ids.tobytes()
                assert mine.sampling_logprobs.tobytes() == found.sampling_logprobs.tobytes()


async def test_a_forward_takes_trace_ids_too(team, model):
    traces = [await roll_out(team, TURNS[:1]) for _ in range(2)]
    reply = await team.train(model["id"], "forward", batch(*traces))
    assert reply.status_code == 200, reply.text
    assert [datum["reward"] for datum in reply.json()["data"]] == [1.0, 1.0]


UNKNOWN = {"type": "image_asset_pointer", "location": f"sha256:{'0a' * 32}", "format": "png", "expected_tokens": 1}


@pytest.mark.parametrize(
    ("samples", "left", "sentence"),
    [
        (TURNS, None, "is still running"),
        ([], COMPLETED, "has no token samples"),
        (TURNS, {"status": "completed"}, "has no reward"),
        (TURNS, {"status": "cancelled", "reward": 0.0}, "was cancelled"),
        (TURNS, {"status": "error", "reward": 0.0, "error": "boom"}, r"ended in an error \(boom\)"),
        (TURNS, {**COMPLETED, "stop_reason": "timeout"}, "timed out"),
        (TURNS, {**COMPLETED, "evaluation_result": {"score": 1.0, "isError": True}}, "no valid grade"),
        ([sample(prompt_chunks=[{"type": "image", "data": "QQ==", "format": "png"}])], COMPLETED, "prompt_chunks"),
        ([sample(prompt_token_ids=[7], prompt_chunks=[UNKNOWN])], COMPLETED, "unknown_picture"),
        ([sample(output_logprobs=[-1.0])], COMPLETED, "malformed_sample"),
        ([sample(output_token_ids=[500, 1])], COMPLETED, "outside the vocabulary"),
        ([sample(output_logprobs=[])], COMPLETED, "0 output_logprobs"),
    ],
)
async def test_a_rollout_that_cannot_be_trained_on_is_refused_by_name(samples, left, sentence, team, model, database):
    good, bad = await roll_out(team), await roll_out(team, samples, left)
    reply = await team.train(model["id"], "forward-backward", batch(good, bad))
    assert reply.status_code == 422, reply.text
    assert f"input 1 (trace {bad})" in reply.json()["detail"]
    assert __import__("re").search(sentence, reply.json()["detail"]), reply.json()
    assert await num_operations(database, model["id"]) == 0


async def test_a_silent_rollout_is_refused_until_its_exit_comes(team, model, database):
    trace = await roll_out(team, TURNS, None)
    async with database.session() as session:
        closed = update(TraceRow).where(TraceRow.id == uuid.UUID(trace))
        await session.execute(closed.values(timed_out_at=TraceRow.created_at))
    reply = await team.train(model["id"], "forward-backward", batch(trace))
    assert "fell silent" in reply.json()["detail"]
    assert (await team.http.get(f"/v2/trace/{trace}")).json()["status"] == "error"
    await team.http.post(f"/v2/trace/{trace}/exit", json=COMPLETED)
    assert (await team.http.get(f"/v2/trace/{trace}")).json()["status"] == "completed"
    assert (await team.train(model["id"], "forward-backward", batch(trace))).status_code == 200


async def test_a_trace_of_another_team_reads_like_an_unknown_one(team, other_team, model):
    other, unknown = await roll_out(other_team), uuid.uuid4().hex
    said = [
        (await team.train(model["id"], "forward-backward", batch(trace))).json()["detail"].replace(trace, "")
        for trace in (other, unknown)
    ]
    assert said[0] == said[1]
    assert "no rollout is on record" in said[0]


@pytest.mark.parametrize("text", ["", "x", "f" * 31, "é" * 32, "\x00" * 32, "a" * 1000])
async def test_what_is_no_trace_id_is_refused(text, standing_team, standing_model):
    reply = await standing_team.train(standing_model["id"], "forward-backward", batch(text))
    assert reply.status_code == 422
    assert "which is no trace id" in reply.json()["detail"]


async def test_a_rollout_on_another_base_is_refused(team, model, base, database):
    other = ModelRow(slug="org/Other", name="org/Other", weights="/nowhere", info=base.info)
    async with database.session() as session:
        session.add(other)
    trace = await roll_out(team, model="org/Other")
    reply = await team.train(model["id"], "forward-backward", batch(trace))
    assert reply.status_code == 422
    assert "another base model" in reply.json()["detail"]
    async with database.session() as session:
        await session.delete(other)
    assert (await team.train(model["id"], "forward-backward", batch(await roll_out(team)))).status_code == 200


async def sampled(team: Any, model: dict[str, Any]) -> str:
    """A rollout through the gateway, without telemetry."""
    trace = uuid.uuid4().hex
    body = {"model": model["model_name"], "messages": [{"role": "user", "content": "hi"}]}
    reply = await team.http.post("/chat/completions", json=body, headers={"Trace-Id": trace})
    assert reply.status_code == 200, reply.text
    await team.http.post(f"/v2/trace/{trace}/exit", json=COMPLETED)
    return trace


async def test_how_old_samples_are_is_counted_and_can_be_limited(team, model):
    async def train(*inputs: Any, **more: Any) -> Any:
        return await team.train(model["id"], "forward-backward", batch(*inputs, **more))

    old = await sampled(team, model)
    assert (await train(old, max_staleness=0)).json()["metrics"]["staleness:max"] == 0
    for _ in range(2):
        await team.step(model["id"])
    new = await sampled(team, model)
    metrics = (await train(old, new)).json()["metrics"]
    assert metrics["staleness:mean"] == 1.0
    assert metrics["staleness:max"] == 2.0
    assert metrics["off_policy_samples:sum"] == 1.0
    assert (await train(old, max_staleness=2)).status_code == 200
    refused = await train(new, old, max_staleness=1)
    assert refused.status_code == 422
    assert f"input 1 (trace {old}) was sampled 2 steps away" in refused.json()["detail"]
    told = await roll_out(team)
    assert "no checkpoint of this model" in (await train(told, max_staleness=9)).json()["detail"]
    assert (await train(told)).status_code == 200
    assert (await train(told, max_staleness=-1)).status_code == 422
    inline = trajectory(trace_id=old)
    metrics = (await train(inline, max_staleness=0)).json()["metrics"]
    assert not [name for name in metrics if "stale" in name or "off_policy" in name], "it names no checkpoint"
    metrics = (await train(inline, old, max_staleness=2)).json()["metrics"]
    assert (metrics["staleness:mean"], metrics["off_policy_samples:sum"]) == (2.0, 1.0), "of recorded rollouts alone"


async def test_more_tokens_than_a_batch_may_have_are_refused_before_they_are_read(team, model):
    long = sample(prompt_token_ids=[1] * 400, output_token_ids=[2] * 100, output_logprobs=[-1.0] * 100)
    trace = await roll_out(team, [long])
    reply = await team.train(model["id"], "forward-backward", batch(*[trace] * 50))
    assert reply.status_code == 413
    assert "smaller batches" in reply.json()["detail"]


async def test_a_batch_may_name_more_traces_than_a_statement_may_have_parameters(team, model, database):
    async with database.session() as session:
        owner = (await session.get_one(ModelRow, uuid.UUID(model["id"]))).team_id
        many = [uuid.uuid4() for _ in range(70_000)]
        assert await evaluation_traces(session, owner, uuid.UUID(model["id"]), many) == {}
