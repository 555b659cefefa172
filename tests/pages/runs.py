"""A run for pages: steps that are done, one that rolls out, evaluations and events; nobody carries it out."""

from __future__ import annotations

import json
import random
import uuid

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.settings import HeldOut, RunConfig, StopRules
from store.tables import ModelRow, RunEventRow, RunRow, RunStepRow

NUM_TASKS = 6


async def add_run(session: AsyncSession, model: ModelRow, steps: int = 20, state: str = "paused") -> RunRow:
    """Of `steps` steps, after which it stands in another one."""
    draw = random.Random(1)
    tasks = [{"name": f"sum-{n}", "env": "sums", "scenario": "sum", "args": {"a": n}} for n in range(NUM_TASKS)]
    held_out = HeldOut(taskset="held-out sums", every=5, group_size=1, benchmark="held-out sums", num_tasks=NUM_TASKS)
    run = RunRow(
        id=uuid.uuid4(),
        team_id=model.team_id,
        model_id=model.id,
        name="nightly",
        taskset="sums",
        num_tasks=NUM_TASKS,
        tasks=json.dumps(tasks),
        held_out_tasks=json.dumps(tasks),
        config=RunConfig(steps=50, group_size=4, tasks_per_step=3, min_group=4).model_dump(mode="json"),
        held_out=held_out.model_dump(mode="json"),
        stop=StopRules().model_dump(mode="json"),
        state=state,
        step=steps,
        reward=0.71,
        held_out_score=0.66,
        best_held_out_score=0.68,
        waiting_for="training of 'arith-rl' is paused since this morning by the guard" if state == "running" else None,
        job_id=uuid.uuid4(),
        started_at=func.clock_timestamp(),
        next_event=steps + 2,
    )
    session.add(run)
    await session.flush()
    chosen = {"tasks": [{"task": n, "why": "in turn"} for n in (4, 1, 2)]}
    for step in range(1, steps + 1):
        reward = 0.2 + 0.5 * step / steps + draw.uniform(-0.05, 0.05)
        metrics = {"reward": reward, "reward_std": 0.4, "kl": 1e-4, "num_rollouts": 12, "num_errors": 0}
        row = {"run_id": run.id, "step": step, "generation": step, "ended_at": func.clock_timestamp()}
        session.add(RunStepRow(**row, kind="train", phase="done", chosen=chosen, metrics=metrics))
        if step % 5 == 0:
            score = {"score": reward - 0.05, "metrics": {"num_rollouts": NUM_TASKS, "num_errors": 0}}
            session.add(RunStepRow(**row, kind="held_out", phase="done", chosen=chosen, **score))
        said = f"step {step} of 50: reward {reward:.4f}"
        session.add(RunEventRow(run_id=run.id, number=step, kind="step", message=said))
    session.add(RunEventRow(run_id=run.id, number=steps + 1, kind="warning", message="1 rollout failed for good"))
    open_row = {"run_id": run.id, "step": steps + 1, "generation": steps + 1, "kind": "train"}
    session.add(RunStepRow(**open_row, phase="rolling_out", chosen=chosen))
    await session.flush()
    return run
