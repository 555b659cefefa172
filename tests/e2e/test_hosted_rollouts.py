"""Whole rollouts on the box, driven by the unmodified SDK from here and on a runner."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.e2e.box import Box
from tests.e2e.deployed import deploy
from tests.e2e.hosted import agent_of, num_running, run_hosted, runner_log, task, until
from tests.e2e.test_sdk import client_of

pytestmark = pytest.mark.usefixtures("deployed")


@pytest.fixture(scope="module")
def deployed(box: Box) -> None:
    status = deploy(box)
    assert status["status"] == "SUCCEEDED", status


async def test_groups_of_rollouts_train_by_trace_id_in_the_moment_they_are_over(box: Box):
    box.fork("hosted")
    job = await run_hosted("hosted", task(a=12, b=30), task(a=7, b=8), group=4)
    assert [run.trace.error for run in job.runs if run.grade.is_error] == []
    assert all(0 <= run.reward <= 1 for run in job.runs)
    assert len({run.group_id for run in job.runs}) == 2
    result = await client_of("hosted").step(job.runs, learning_rate=1e-3, group_size=4)
    assert result.step == 1

    trace = box.call("GET", f"/v2/traces/{job.runs[0].trace_id}")
    assert trace["status"] == "completed"
    assert trace["reward"] == job.runs[0].reward
    assert len(trace["turns"]) == 1
    spans = box.call("GET", f"/v2/traces/{job.runs[0].trace_id}/spans")["spans"]
    assert len(spans) == 4, "set up, asked, answered, evaluated"


async def test_an_environment_that_dies_is_an_error_with_a_sentence_and_not_trainable(box: Box):
    box.fork("hosted-dies")
    (run,) = (await run_hosted("hosted-dies", task("die"))).runs
    assert run.grade.is_error
    assert "env closed connection" in str(run.trace.error)


async def test_a_cancelled_rollout_stops_on_its_runner_and_stays_cancelled(box: Box):
    from hud.eval.runtime import HostedRuntime

    box.fork("hosted-cancel")
    trace_id = uuid.uuid4().hex
    runtime = HostedRuntime(poll_interval=0.1)
    slow = runtime.run(
        task(a=1, b=2, wait_s=60.0), agent_of("hosted-cancel"), job_id=uuid.uuid4().hex, trace_id=trace_id
    )
    others = num_running(box)  # that nobody ends: a chat with the trace id of a client
    running = asyncio.create_task(slow)
    await until(lambda: num_running(box) == others + 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert box.call("GET", f"/v2/trace/{trace_id}")["status"] == "cancelled"
    await until(lambda: '"outcome": "cancelled"' in runner_log(box))
    assert box.call("GET", f"/v2/trace/{trace_id}")["status"] == "cancelled"
