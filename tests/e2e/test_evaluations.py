"""Evaluations run with the unmodified SDK: their scores belong to the checkpoints that served them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from tests.e2e.box import Box
from tests.e2e.test_sdk import client_of, payloads

MODEL = "scored"
WAIT_S = 60.0


async def evaluate(name: str, *rewards: float) -> Any:
    """A job of the SDK in which the model answers, and is given these rewards whatever it says."""
    from hud import Environment, Taskset
    from hud.eval import LocalRuntime

    from examples.grpo import sampling_agent

    env = Environment(name="given")

    @env.template()
    async def given(reward: float) -> AsyncGenerator[Any, Any]:
        yield "12+30=?"
        yield reward

    tasks = Taskset(name, [given(reward=reward) for reward in rewards])
    return await tasks.run(sampling_agent(MODEL, temperature=1.0), runtime=LocalRuntime(env))


def scores(box: Box, model_id: str, num: int) -> dict[tuple[str, str | None], dict[str, Any]]:
    """By benchmark and checkpoint, once there are so many: a job is scored when nothing was heard of it for a while."""
    deadline = time.monotonic() + WAIT_S
    while len(found := box.call("GET", f"/v2/models/{model_id}/evals")["items"]) < num:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return {(one["benchmark"], one["checkpoint_id"]): one for one in found}


def charted(box: Box, model_id: str) -> list[list[list[Any]]]:
    """The held-out points that the model's page draws."""
    with httpx.Client(base_url=box.url, trust_env=False) as browser:
        browser.post("/login", data={"key": box.env["HUD_API_KEY"], "next": "/"})
        return list(browser.get(f"/live/models/{model_id}/series").json()["scores"].values())


async def test_jobs_score_the_checkpoints_that_served_them_by_their_name_or_a_flag(box: Box):
    from hud.utils.exceptions import HudException

    model_id = box.fork(MODEL)
    trainer = client_of(MODEL)
    of_base = await evaluate("held-out sums, step 0", 0.25, 0.75)
    step = await trainer.step(payloads(box, MODEL), learning_rate=1e-3, group_size=4)
    await evaluate("held-out sums, step 1", 0.75, 1.0, 0.5)
    flagged = await evaluate("autumn", 1.0, 0.5)
    box.call("POST", f"/v2/jobs/{flagged.id}/evaluation", {"benchmark": "SheetBench-50"})
    await evaluate("training problems", 0.0)

    with pytest.raises(HudException, match="held out from training"):
        await trainer.forward_backward([run.trace_id for run in of_base.runs], group_size=2)

    found = scores(box, model_id, 3)
    told = {key: (one["score"], one["n"], one["mixed"]) for key, one in found.items()}
    assert told == {
        ("held-out sums", None): (0.5, 2, False),
        ("held-out sums", step.checkpoint_id): (0.75, 3, False),
        ("SheetBench-50", step.checkpoint_id): (0.75, 2, False),
    }
    name = found["held-out sums", step.checkpoint_id]["checkpoint_name"]
    assert charted(box, model_id) == [[[name, 0.75]], [[name, 0.75]]]
