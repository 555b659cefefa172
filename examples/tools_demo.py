"""Watch a model learn to use a tool over several turns: fork the tiny base that guesses numbers, and train it.

    source <data dir>/env
    python -m examples.tools_demo

The environment (`examples/guessing`) runs in this process, a fresh one a rollout; its tool is served over MCP. Exits 0
if the mean reward climbed from below 0.5 to 0.85, 1 if it did not.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from hud import LocalRuntime, Taskset, TrainingClient
from hud.agents import create_agent
from hud.eval import Job, Run

from examples.demo import skip_loading_certificates
from examples.grpo import complete_groups, first_error, fork_model

FOLDER = Path(__file__).with_name("guessing")
START_BELOW, END_ABOVE = 0.5, 0.85
WINDOW = 3  # steps
MAX_TOKENS = 24  # a turn; a call takes ten


def main() -> int:
    args = parse_args()
    skip_loading_certificates()
    # Python 3.11 reports each cancelled stream of an environment that ends.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    rewards = asyncio.run(train(args))
    start, end = rewards[0], fmean(rewards[-WINDOW:])
    climbed = start < START_BELOW and end >= END_ABOVE
    print(f"{'climbed' if climbed else 'did NOT climb'}: mean reward {start:.2f} → {end:.2f} in {len(rewards)} steps")
    return 0 if climbed else 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.tools_demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base-model", default="tiny-tools", help="slug of the base to fork")
    parser.add_argument("--name", help="name of the fork (default: made from the time)")
    parser.add_argument("--steps", type=int, default=40, help="at most; ends when the reward is there")
    parser.add_argument("--groups", type=int, default=8, help="numbers a step")
    parser.add_argument("--group-size", type=int, default=8, help="games a number")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0, help="which numbers, in which order")
    parser.add_argument("--max-concurrent", type=int, default=32, help="games in flight")
    return parser.parse_args()


async def train(args: argparse.Namespace) -> list[float]:
    """The mean reward of each step."""
    model = fork_model(args.base_model, args.name or f"guess-{time.time_ns() // 1_000_000:x}")
    print(f"forked {args.base_model} as {model}")
    agent, trainer = playing_agent(model), TrainingClient(model)
    numbers = list(Taskset.from_file(FOLDER / "tasks.py"))
    rng = random.Random(args.seed)
    job = await Job.start(f"train {model}", group=args.group_size)
    rewards: list[float] = []
    while len(rewards) < args.steps and (len(rewards) < WINDOW or fmean(rewards[-WINDOW:]) < END_ABOVE):
        started, num_before = time.monotonic(), len(job.runs)
        tasks = Taskset("numbers", rng.sample(numbers, args.groups))
        await tasks.run(
            agent,
            runtime=LocalRuntime(FOLDER / "env.py"),
            group=args.group_size,
            max_concurrent=args.max_concurrent,
            job=job,
        )
        runs = complete_groups(job.runs[num_before:], args.group_size)
        if not runs:
            raise SystemExit(f"all groups had failed rollouts: {first_error(job.runs[num_before:])}")
        rolled_out = time.monotonic()
        await trainer.step(runs, learning_rate=args.lr, group_size=args.group_size)
        rewards.append(fmean(run.reward for run in runs))
        times = f"{rolled_out - started:.1f} s of games, {time.monotonic() - rolled_out:.1f} s of training"
        guesses = fmean(map(num_calls, runs))
        print(f"step {len(rewards):2d}: reward {rewards[-1]:.2f}, {guesses:.1f} guesses a game, {times}", flush=True)
    return rewards


def playing_agent(model: str) -> Any:
    """An agent on the gateway that keeps token ids and logprobs."""
    sampling = {"temperature": 1.0, "max_tokens": MAX_TOKENS, "extra_body": {"return_token_ids": True}}
    return create_agent(model, completion_kwargs=sampling)


def num_calls(run: Run) -> int:
    """Tool calls of a rollout."""
    return sum(len(getattr(step, "tool_calls", ()) or ()) for step in run.trace.steps)


if __name__ == "__main__":
    sys.exit(main())
