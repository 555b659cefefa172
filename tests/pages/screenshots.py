"""Pictures of all pages, light, dark and narrow, with invented runs: `python -m tests.pages.screenshots --out DIR`."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import uuid
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import func, select

from server.app import create_app
from server.auth.service import create_key
from server.process.settings import ServerSettings
from server.rollouts.texts import read_text
from store.blob_stores import BlobStore, open_blob_store
from store.database import AsyncDatabase
from store.embedded import EmbeddedPostgres
from store.migrations import upgrade
from store.rollouts.unread import unread_traces
from store.tables import (
    AlarmRow,
    ApiKeyRow,
    CheckpointRow,
    EvalRow,
    GuardRow,
    ModelLeaseRow,
    ModelRow,
    SamplerAdapterRow,
    SamplerRow,
    TeamRow,
    TraceCommentRow,
    TrainerRow,
)
from store.tasksets import make_taskset, put_tasks
from tests.conftest import database_folder
from tests.contract.conftest import serving
from tests.contract.environments import deployed_environment_of
from tests.pages.browser import open_browser
from tests.pages.rollouts import add_groups, add_job, pass_over, tell, trace_row, turns
from tests.pages.runs import add_run
from tests.pages.scenes import add_model, grow
from tests.pages.visit import visiting
from wire.adapter_names import base_adapter_name

LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


async def invent(database: AsyncDatabase) -> tuple[str, dict[str, str]]:
    """A key, and pages by the names of their pictures."""
    async with database.session() as session:
        key = await create_key(session, "research", "laptop", role="admin")
        await create_key(session, "evals", "nightly")
        team = (await session.scalars(select(TeamRow.id).where(TeamRow.name == "research"))).one()
        own = (await session.scalars(select(ApiKeyRow).where(ApiKeyRow.team_id == team))).one()
        research = await session.get_one(TeamRow, team)
        research.max_models, research.max_storage_bytes = 20, 50 * 2**30
        info = {
            "vocab_size": 151_936,
            "context_length": 32_768,
            "architecture": "Qwen3ForCausalLM",
            "dtype": "bfloat16",
        }
        base = ModelRow(slug="qwen3-4b", name="qwen3-4b", weights="Qwen/Qwen3-4B", info=info)
        session.add(base)
        await session.flush()
        model = await add_model(session, team, base.id, "arith-rl")
        first = await grow(session, model, 40, seed=1, age_s=4000)
        await grow(session, model, 12, start=first[24], seed=2, age_s=3000, reward=0.6)
        third = await grow(session, model, 30, start=first[30], seed=3, age_s=2500, reward=0.7)
        await grow(session, model, 3, seed=4, age_s=1700)
        last = await grow(session, model, 10, start=third[-5], seed=5, age_s=1200, reward=0.8)
        first[20].pinned_at = func.clock_timestamp()
        for node in first[:10]:
            node.files_removed_at = node.state_removed_at = func.clock_timestamp()
        thousand = await add_model(session, team, base.id, "thousand-steps")
        await grow(session, thousand, 1000, seed=9)
        fresh = await add_model(session, team, base.id, "not-yet-trained")
        soon = func.clock_timestamp() + func.make_interval(0, 0, 0, 1)  # so that they live until the last picture
        trainer = TrainerRow(base_id=base.id, host="gpu-1", pid=4211, losses={}, heartbeat_at=soon)
        sampler = SamplerRow(
            base_id=base.id, host="gpu-2", pid=877, url="http://gpu-2", backend="vllm", heartbeat_at=soon
        )
        silent = SamplerRow(
            base_id=base.id, host="gpu-3", pid=912, url="http://gpu-3", backend="vllm", heartbeat_at=last[0].created_at
        )
        session.add_all([trainer, sampler, silent])
        await session.flush()
        session.add(ModelLeaseRow(model_id=model.id, trainer_id=trainer.id, expires_at=soon))
        for adapter in (base_adapter_name(base.id), last[-1].adapter_name):
            session.add(SamplerAdapterRow(sampler_id=sampler.id, adapter=adapter, state="loaded"))
    page = f"/models/{model.id}"
    return key, {
        "models": "/",
        "model": page,
        "checkpoints": f"{page}?tab=checkpoints",
        "checkpoint": f"{page}?tab=checkpoints&node={first[36].name}",
        "move-head": f"{page}/head?to={first[36].name}",
        "thousand": f"/models/{thousand.id}",
        "thousand-checkpoints": f"/models/{thousand.id}?tab=checkpoints",
        "thousand-smooth": f"/models/{thousand.id}?smooth=0.9&log=on&x=tokens&metric=loss:sum&metric=reward_mean",
        "model-order": f"{page}?x=order",
        "compare": f"/compare?model={model.id}&model={thousand.id}&end={last[-1].id}&end={first[-1].id}&x=time",
        "compare-nothing": "/compare",
        "fresh": f"/models/{fresh.id}",
        "base": f"/models/{base.id}",
        "pause": f"{page}/pause",
        "model-edit": f"{page}/edit",
        "model-delete": f"{page}/delete",
        "checkpoint-delete": f"{page}/checkpoints/{first[36].name}/delete",
        "guard": f"{page}?tab=guard",
        "guard-rule": f"{page}/guard/rules/held_out",
        "guard-evaluations": f"{page}/guard/evaluations",
        "system": "/system",
        "drain": f"/system/sampler/{sampler.id}/drain",
        "keys": "/keys",
        "key-new": "/keys/new",
        "key-rotate": f"/keys/{own.id}/rotate",
        "key-revoke": f"/keys/{own.id}/revoke",
        "team": f"/teams/{team}",
        "team-own": "/team",
        "team-remove": f"/teams/{team}/remove",
        "team-audit": "/team/audit",
        "help": "/help",
        "help-runs": "/help/runs",
        "missing": "/nothing",
    }


async def invent_rollouts(database: AsyncDatabase, blobs: BlobStore) -> dict[str, str]:
    """Pages of jobs and rollouts. After `invent`."""
    rng = random.Random(0)
    async with database.session() as session:
        model = (await session.scalars(select(ModelRow).where(ModelRow.slug == "arith-rl"))).one()
        head = await session.get_one(CheckpointRow, model.head_checkpoint_id)
        assert model.team_id is not None
        job = await add_job(session, model.team_id, "arith-rl nightly", group_size=8, taskset_id="arith")
        rewards: list[list[float | None]] = [
            [min(1.0, max(0.0, round(rng.gauss(mean, 0.3), 1))) for _ in range(8)] for mean in (0.5, 1.6, -0.8) * 5
        ]
        rewards += [[0.5] * 8, [1.0, None, None]]
        told, untold, running, other, *_ = await add_groups(session, job, rewards, model)
        ended = await add_job(session, model.team_id, "eval of arith-rl on held-out tasks", taskset_id="held-out")
        await add_groups(session, ended, [[1.0], [0.0], [0.5]], model)
        for step in (5, 20, 35):
            node = (
                await session.scalars(
                    select(CheckpointRow).where(CheckpointRow.model_id == model.id, CheckpointRow.step == step)
                )
            ).first()
            assert node is not None
            known = {"model_id": model.id, "checkpoint_id": node.id, "mixed": False, "higher_is_better": True}
            session.add(EvalRow(benchmark="SheetBench-50", score=0.3 + step / 100, **known))
        message = "The reward rose over the last 10 steps, and SheetBench-50 fell twice in a row (0.65, 0.58)."
        known = {"evidence": {}, "actions": ["pause"], "state": "done", "outcome": {"pause": "training is paused"}}
        alarm = AlarmRow(model_id=model.id, rule="held_out", subject_id=uuid.uuid4(), step=63, message=message, **known)
        session.add_all([alarm, GuardRow(model_id=model.id, rules={"kl_sampler": {"parameters": {"bound": 0.2}}})])
        bad = trace_row(
            model.team_id,
            status="error",
            reward=0.0,
            error="ConnectionError: the environment went away\n  at step 7",
            task_slug="browse",
            flags=["prompt_chunks"],
        )
        session.add(bad)
        await add_job(session, model.team_id, "just begun")
        taskset = await make_taskset(session, model.team_id, "arith")
        assert taskset is not None
        await put_tasks(session, taskset, [invented_task(number) for number in range(30)])
        job.taskset_id = str(taskset.id)
        told.labels = ["to discuss", "wrong tool"]
        about = {"team_id": told.team_id, "trace_id": told.id, "author": "laptop"}
        session.add(TraceCommentRow(text="The tool's answer is ignored in turn 2.", **about))
        environment = await deployed_environment_of(session, model.team_id, "arith")
        run = await add_run(session, model)
    await tell(database, blobs, told, checkpoint=head)
    await tell(database, blobs, untold, checkpoint=head, is_reported=False)
    await tell(database, blobs, other, checkpoint=head, num_turns=2, num_tokens=32)
    async with database.session() as session:
        await pass_over(session, told, head, turns(3, 40)[0])
    await tell(database, blobs, running, num_turns=60, num_tokens=900, checkpoint=head)
    async with database.connection() as connection:
        unread = await unread_traces(connection, 1000, settle_s=0.0, quiet_s=0.0)
    for trace in unread:
        await read_text(database, blobs, trace)
    return {
        "tasks": f"/models/{model.id}?tab=tasks",
        "undo": f"/models/{model.id}/alarms/{alarm.id}/undo",
        "runs": "/runs",
        "run": f"/runs/{run.id}",
        "run-describe": f"/runs/{run.id}/describe",
        "run-cancel": f"/runs/{run.id}/cancel",
        "environments": "/environments",
        "environment": f"/environments/{environment.id}",
        "tasksets": "/tasksets",
        "taskset": f"/tasksets/{taskset.id}",
        "taskset-open": f"/tasksets/{taskset.id}?task=task-1",
        "jobs": "/jobs",
        "job": f"/jobs/{job.id}",
        "job-rollouts": f"/jobs/{job.id}?tab=rollouts",
        "rollouts": "/traces",
        "rollout": f"/trace/{told.id.hex}",
        "rollout-open": f"/trace/{told.id}?open=2",
        "rollout-trainer": f"/trace/{told.id}?by=trainer",
        "rollout-untold": f"/trace/{untold.id}",
        "rollout-long": f"/trace/{running.id}?open=50",
        "rollout-bad": f"/trace/{bad.id}",
        "rollouts-found": "/traces?text=carry+add&label=to+discuss",
        "side-by-side": f"/traces/compare?a={told.id}&b={other.id}",
        "playground": "/playground",
    }


def invented_task(number: int) -> tuple[str, str]:
    """Name and content of a task."""
    args = {"question": f"What is {7 * number} + {number}?" + " Show each step." * (number % 5), "answer": 8 * number}
    name = f"task-{number}"
    return name, json.dumps({"name": name, "env": "arith", "scenario": "solve", "args": args})


async def main(out: Path, looks: Collection[str] = LOOKS, only: Collection[str] = ()) -> None:
    """Take them all, or only those of these names."""
    with database_folder() as folder:
        postgres = EmbeddedPostgres(folder / "postgres")
        upgrade(postgres.url)
        database = AsyncDatabase(postgres.url)
        key, pages = await invent(database)
        settings = ServerSettings(postgres.url, folder / "blobs", "token")
        pages |= await invent_rollouts(database, open_blob_store(settings.blob_store_url))
        async with serving(create_app(settings)) as origin, open_browser() as browser:
            pages = {name: path for name, path in pages.items() if name in only or not only}
            for look in looks:
                async with visiting(browser, origin, **LOOKS[look]) as visit:
                    await visit.go("/login")
                    await visit.page.screenshot(path=out / f"login-{look}.png")
                    await visit.sign_in(key)
                    for name, path in pages.items():
                        await visit.go(path)
                        await visit.settled()
                        await visit.page.screenshot(path=out / f"{name}-{look}.png", full_page=True)
                    if only:
                        continue
                    await visit.go("/keys/new")
                    await visit.page.get_by_label("Name", exact=True).fill(f"made in {look}")
                    await visit.page.get_by_role("button", name="Make the key").click()
                    await visit.page.screenshot(path=out / f"key-made-{look}.png", full_page=True)
        await database.close()
        postgres.stop()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--look", nargs="*", choices=LOOKS, default=list(LOOKS))
    arguments.add_argument("--only", nargs="*", default=(), help="names of pages; default: all")
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(given.out, given.look, given.only))
