"""The training loop of HUD's guide, unchanged: the environment is deployed, the agent and the loop are here.

    hud deploy examples/deployed --yes
    hud sync tasks arithmetic examples/deployed/tasks.py --yes
    hud models fork tiny-arith --name my-agent --yes
    python -m examples.guide_train arithmetic my-agent --steps 30 --tasks 8 --lr 7e-4

`HUDRuntime` has the box start the environment of each rollout and tunnels to it.
"""

from __future__ import annotations

import argparse
import asyncio
import random

from hud import HUDRuntime, Taskset, TrainingClient
from hud.agents import create_agent


async def main() -> None:
    args = parse_args()
    taskset = Taskset.from_api(args.taskset)
    agent = create_agent(args.model, completion_kwargs={"extra_body": {"return_token_ids": True}})
    trainer = TrainingClient(args.model)
    rng = random.Random(args.seed)
    for step in range(1, args.steps + 1):
        tasks = list(taskset)
        batch = Taskset(taskset.name, rng.sample(tasks, min(args.tasks or len(tasks), len(tasks))))
        job = await batch.run(agent, runtime=HUDRuntime(), group=args.group, max_concurrent=args.max_concurrent)
        await trainer.step(job.runs, learning_rate=args.lr, group_size=args.group)
        print(f"step {step}: mean reward {job.reward:.2f}", flush=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.guide_train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("taskset", help="name or id of a taskset on the server")
    parser.add_argument("model", help="a trainable model, see `hud models list`")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--group", type=int, default=8, help="rollouts a task")
    parser.add_argument("--tasks", type=int, help="tasks a step (default: all)")
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--max-concurrent", type=int, default=16, help="rollouts in flight")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
