"""Recorded rollouts of the unmodified SDK: trained on by trace id, and read with its CLI."""

from __future__ import annotations

import hashlib
import json
import random
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from playwright.async_api import Browser, expect
from transformers import AutoModelForCausalLM

from tests.e2e.box import Box
from tests.e2e.hud_command import run_hud
from tests.e2e.test_sdk import client_of, hud_json
from tests.pages.visit import visiting

TURNS = 12


def weights_digest(box: Box, model_id: str, checkpoint_id: str) -> str:
    folder = box.data_dir / "checkpoints" / uuid.UUID(model_id).hex / uuid.UUID(checkpoint_id).hex
    return hashlib.sha256((folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


async def assert_same_weights(box: Box, name: str, model_id: str, inline: list[Any], by_id: list[str]) -> None:
    """One step on the samples at hand and one by their ids alone, both from the base: the same bits."""
    trainer, made = client_of(name), []
    for inputs in (inline, by_id, [inline[0], *by_id[1:]]):
        box.call("PUT", f"/v2/models/{model_id}/head", {"checkpoint_id": None})
        result = await trainer.step(inputs, learning_rate=1e-3, group_size=len(inputs))
        made.append(result.checkpoint_id)
    first, *others = [weights_digest(box, model_id, checkpoint_id) for checkpoint_id in made]
    assert others == [first, first]
    nodes = {node.id: node for node in await trainer.checkpoints()}
    assert nodes[made[0]].metrics["grad_norm"] > 0, "or equal weights would mean nothing"
    assert nodes[made[1]].metrics["off_policy_samples:sum"] == 0


@pytest.fixture(scope="module")
async def job(box: Box) -> Any:
    """Rollouts through the SDK's own loop, of problems that differ: equal rollouts would teach nothing."""
    from hud.eval import LocalRuntime, Shared

    from examples.arithmetic.env import env, taskset
    from examples.arithmetic.problems import split_problems
    from examples.grpo import sampling_agent

    box.fork("recorded")
    client_of("recorded")
    problems = random.Random(0).sample(split_problems()[0], 4)
    async with Shared(LocalRuntime(env), width=4) as runtime:
        return await taskset("recorded sums", problems).run(
            sampling_agent("recorded", temperature=1.0), runtime=runtime, max_concurrent=4
        )


async def test_training_by_trace_id_alone_makes_the_same_weights_bit_for_bit(box: Box, job: Any):
    from hud.train.client import _run_to_input

    runs = job.runs
    assert len({run.trace_id for run in runs}) == 4
    inline = []
    for reward, run in enumerate(runs):  # rewards that differ, whatever was sampled
        box.call("POST", f"/v2/trace/{run.trace_id}/exit", {"status": "completed", "reward": float(reward)})
        inline.append(_run_to_input(run).model_copy(update={"reward": float(reward)}))
    shown = box.call("GET", f"/v2/traces/{runs[0].trace_id}")
    assert (shown["turns_from"], shown["other_samples"], shown["flags"]) == ("telemetry", [], [])
    assert shown["turns"][0]["served_at"], "gateway and telemetry told of one sample"
    model_id = next(m["id"] for m in box.call("GET", "/v2/models")["items"] if m["model_name"] == "recorded")
    await assert_same_weights(box, "recorded", model_id, inline, [run.trace_id for run in runs])


async def test_a_game_of_twelve_turns_is_trained_on_by_its_id(box: Box):
    """The SDK's agent plays, its steps are recorded as its loop records them; a tool answers every move."""
    from hud.agents import create_agent
    from hud.agents.types import ToolStep
    from hud.telemetry import flush
    from hud.telemetry.context import set_trace_context
    from hud.train import TrajectoryPayload, TrajectorySample
    from hud.types import MCPToolCall, MCPToolResult, Trace

    model_id = box.fork("game")
    client_of("game")
    wanted = {"max_tokens": 4, "temperature": 1.0, "extra_body": {"return_token_ids": True}}
    agent = create_agent("game", completion_kwargs=wanted)
    inline = []
    for number in range(2):
        trace = Trace(trace_id=uuid.uuid4().hex)
        box.call("POST", f"/v2/trace/{trace.trace_id}/enter", {"model": "game", "task_slug": "nim"})
        with set_trace_context(trace.trace_id):
            state = await agent._initialize_state(prompt=[])
            board = 40 + number
            for _ in range(TURNS):
                state.messages.append(agent._format_message("user", f"{board}-1=?"))
                step = await agent.get_response(state, system_prompt="Take some.")
                trace.record(step)
                taken = 1 + len(step.sample.output_token_ids) % 3
                board -= taken
                call = MCPToolCall(name="take", arguments={"count": taken})
                result = MCPToolResult(content=[{"type": "text", "text": str(board)}])
                trace.record(ToolStep(source="tool", call=call, result=result))
        assert flush(60)
        box.call("POST", f"/v2/trace/{trace.trace_id}/exit", {"status": "completed", "reward": float(number)})
        samples = [step.sample for step in trace.steps if getattr(step, "sample", None)]
        assert len(samples) == TURNS
        turns = [
            TrajectorySample(
                prompt_token_ids=one.prompt_token_ids,
                output_token_ids=one.output_token_ids,
                output_logprobs=one.output_logprobs,
            )
            for one in samples
        ]
        inline.append(TrajectoryPayload(samples=turns, reward=float(number), trace_id=trace.trace_id))
    traces = [payload.trace_id for payload in inline]
    shown = box.call("GET", f"/v2/traces/{traces[0]}?tokens=false")
    assert [turn["step_id"] for turn in shown["turns"]] == list(range(1, 2 * TURNS, 2))
    assert shown["other_samples"] == []
    assert len(shown["turns"][-1]["messages"]) == 2 * TURNS, "the system's, eleven pairs, the last board"
    kinds = [event["kind"] for event in box.call("GET", f"/v2/trace/{traces[0]}/events")["events"]]
    assert kinds == ["agent_message", "tool_call"] * TURNS
    await assert_same_weights(box, "game", model_id, inline, traces)


def reference_logprobs(base: Path, adapter: Path, turn: dict[str, Any]) -> np.ndarray:
    """Of the output tokens, by transformers and PEFT alone."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter))
    ids, num_output = [*turn["prompt_token_ids"], *turn["output_token_ids"]], len(turn["output_token_ids"])
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0]
    logprobs = logits[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    return logprobs[-num_output:].numpy()


def last_pass(box: Box, trace_id: str, kind: str, step: int) -> dict[str, Any]:
    """The only turn of a rollout, once such a pass over it was written down, which is soon after its answer."""
    deadline = time.monotonic() + 60
    while True:
        shown = box.call("GET", f"/v2/traces/{trace_id}")
        (turn,) = shown["turns"]
        if turn["trainer"] and (turn["trainer"]["kind"], turn["trainer"]["step"]) == (kind, step):
            return turn
        assert time.monotonic() < deadline, turn["trainer"]
        time.sleep(0.05)


async def test_what_the_trainer_made_of_each_token_stands_beside_what_the_sampler_said(
    box: Box, job: Any, tiny_base: Path
):
    model_id = box.fork("looked-at")
    trainer, runs = client_of("looked-at"), job.runs
    for reward, run in enumerate(runs):
        box.call("POST", f"/v2/trace/{run.trace_id}/exit", {"status": "completed", "reward": float(reward)})
    by_id = [run.trace_id for run in runs]
    moved = await trainer.step(by_id, learning_rate=1e-2, group_size=4)
    passed = await trainer.forward_backward([*by_id[:2], *runs[2:]], group_size=4)  # by id, and inline
    assert passed.num_datums == 4
    adapter = box.data_dir / "checkpoints" / uuid.UUID(model_id).hex / uuid.UUID(moved.checkpoint_id).hex / "adapter"
    for trace_id in by_id:
        turn = last_pass(box, trace_id, "forward_backward", 1)
        kept = turn["trainer"]
        assert (kept["model_id"], kept["checkpoint_id"]) == (model_id, moved.checkpoint_id)
        wanted = reference_logprobs(tiny_base, adapter, turn)
        np.testing.assert_allclose(kept["logprobs"], wanted, atol=1e-5)
        gaps = np.array(kept["logprobs"]) - np.array(turn["output_logprobs"])
        assert np.abs(gaps).max() > 1e-3, "the step moved the policy, or all of this would mean little"
        assert kept["difference"]["max_abs_difference"] == pytest.approx(np.abs(gaps).max(), rel=1e-6)
        assert kept["difference"]["kl_k3"] == pytest.approx((np.expm1(gaps) - gaps).mean(), rel=1e-6)
    (datum,) = (await trainer.forward(by_id[:1])).data
    kept = last_pass(box, by_id[0], "forward", 1)["trainer"]
    assert kept["logprobs"] == [one for one, is_action in zip(datum.logprobs, datum.mask, strict=True) if is_action]


async def test_a_button_has_the_trainer_go_over_a_rollout(box: Box, job: Any, browser: Browser):
    trace_id = job.runs[3].trace_id
    box.call("POST", f"/v2/trace/{trace_id}/exit", {"status": "completed", "reward": 3.0})
    async with visiting(browser, box.url) as visit:
        await visit.go(f"/trace/{trace_id}")
        await visit.sign_in(box.env["HUD_API_KEY"])
        await visit.page.get_by_role("button", name="with the trainer").click()
        await visit.page.wait_for_url("**?by=trainer")
        await expect(visit.page.locator(".facts")).to_contain_text("Trainer to sampler")
        await expect(visit.page.locator(".facts")).to_contain_text(", forward")
        assert visit.console == []


async def test_a_rollout_is_scored_by_the_model_that_is_asked(box: Box, job: Any):
    trace_id = job.runs[1].trace_id
    model_id = box.fork("fresh-eyes")
    scored = box.call("POST", f"/v2/traces/{trace_id}/logprobs", {"model": "fresh-eyes"})
    (turn,) = box.call("GET", f"/v2/traces/{trace_id}")["turns"]
    kept = turn["trainer"]
    assert (scored["model_id"], scored["operation_id"]) == (model_id, kept["operation_id"])
    assert (kept["kind"], kept["model_id"], kept["checkpoint_id"], kept["step"]) == ("forward", model_id, None, 0)
    np.testing.assert_allclose(kept["logprobs"], turn["output_logprobs"], atol=1e-3)  # a fork computes its base


def test_the_cli_lists_jobs_and_shows_rollouts(box: Box, job: Any):
    job_id, trace_id = str(uuid.UUID(job.id)), job.runs[0].trace_id
    listed = {one["id"]: one for one in hud_json("jobs")}
    assert listed[job_id]["status"] == "completed"
    assert job_id in run_hud("jobs", "list").stdout
    rows = hud_json("jobs", job_id)
    assert {uuid.UUID(row["id"]).hex for row in rows} == {run.trace_id for run in job.runs}
    assert all(row["status"] == "completed" and row["reward"] is not None for row in rows)
    table = run_hud("jobs", job_id)
    assert table.returncode == 0, table.stderr
    assert str(uuid.UUID(trace_id)) in table.stdout
    for spelling in (trace_id, str(uuid.UUID(trace_id))):
        shown = run_hud("trace", spelling)
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert "Turn 1" in shown.stdout
    assert "agent_message" in json.dumps(hud_json("trace", trace_id))
    assert run_hud("trace", "0" * 32).returncode == 1
    cancelled = run_hud("jobs", "cancel", job_id, "--yes")
    assert cancelled.returncode == 0, cancelled.stdout + cancelled.stderr
    assert "No active tasks" in cancelled.stdout + cancelled.stderr
