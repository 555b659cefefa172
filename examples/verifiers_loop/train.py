"""Train on an environment of the verifiers library: it samples through the gateway, and its rewards go to the trainer.

    source <data dir>/env
    hud models fork tiny-arith --name sums --yes
    <its environment>/bin/python train.py sums --steps 20 --lr 7e-4

The library sends each rollout's id in a header of its choice: as `Trace-Id` it has the gateway record the tokens. The
reward is then reported under that id, and the batch names the ids: no tokens pass through here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import uuid
from statistics import fmean
from typing import Any

import httpx
import verifiers as vf
from environment import load_environment
from verifiers.types import ClientConfig

GROUP_SIZE = 8


async def main() -> None:
    args = parse_args()
    environment, rng = load_environment(), random.Random(args.seed)
    problems = environment.get_dataset().to_list()
    async with httpx.AsyncClient(base_url=os.environ["HUD_API_URL"], headers=key(), timeout=600) as box:
        model_id = await id_of(box, args.model)
        job = uuid.uuid4().hex
        await post(box, f"/v2/trace/job/{job}/enter", {"name": f"verifiers {args.model}", "group": GROUP_SIZE})
        for step in range(1, args.steps + 1):
            chosen = [problem for problem in rng.sample(problems, args.tasks) for _ in range(GROUP_SIZE)]
            rollouts = await roll_out(environment, chosen, args.model)
            await report(box, rollouts, job, args.model)
            await train(box, model_id, [rollout["trajectory_id"] for rollout in rollouts], args.lr)
            print(f"step {step}: mean reward {fmean(rollout['reward'] for rollout in rollouts):.2f}", flush=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a trainable model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=8, help="problems a step")
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


async def roll_out(environment: vf.Environment, inputs: list[Any], model: str) -> list[dict[str, Any]]:
    """The rollouts, those of a problem beside one another."""
    gateway = ClientConfig(
        api_base_url=f"{os.environ['HUD_GATEWAY_URL']}/v1",
        api_key_var="HUD_API_KEY",
        extra_headers_from_state={"Trace-Id": "trajectory_id"},
    )
    sampling: Any = {"temperature": 1.0, "max_tokens": 8}
    shown = {"on_start": nothing, "on_progress": nothing}  # in place of its own bars
    done = await environment.generate(inputs, gateway, model, sampling, state_columns=["trajectory_id"], **shown)
    return sorted(done["outputs"], key=lambda rollout: rollout["example_id"])


def nothing(*_: object) -> None:
    """Show no progress."""


async def report(box: httpx.AsyncClient, rollouts: list[dict[str, Any]], job: str, model: str) -> None:
    """Which group each rollout is in, and its reward."""
    groups = {rollout["example_id"]: uuid.uuid4().hex for rollout in rollouts}
    for rollout in rollouts:
        trace = f"/v2/trace/{rollout['trajectory_id']}"
        await post(box, f"{trace}/enter", {"job_id": job, "group_id": groups[rollout["example_id"]], "model": model})
        await post(box, f"{trace}/exit", {"status": "completed", "reward": rollout["reward"]})


async def train(box: httpx.AsyncClient, model_id: str, traces: list[str], learning_rate: float) -> None:
    """One step of GRPO."""
    calls = f"/v1/models/{model_id}/train"
    await post(box, f"{calls}/forward-backward", {"inputs": traces, "group_size": GROUP_SIZE})
    await post(box, f"{calls}/optim-step", {"learning_rate": learning_rate})


async def id_of(box: httpx.AsyncClient, model: str) -> str:
    """Training calls name a model by its id."""
    models = (await box.get("/v2/models")).raise_for_status().json()["items"]
    return next(row["id"] for row in models if model in (row["id"], row["name"], row["model_name"]))


async def post(box: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    """Raises HTTPStatusError, with what the service said."""
    reply = await box.post(path, json=body)
    if reply.is_error:
        raise httpx.HTTPStatusError(f"{path}: {reply.text}", request=reply.request, response=reply)


def key() -> dict[str, str]:
    """Of the team."""
    return {"Authorization": f"Bearer {os.environ['HUD_API_KEY']}"}


if __name__ == "__main__":
    asyncio.run(main())
