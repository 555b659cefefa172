"""Watch a model learn: fork the tiny base, train it on sums for 30 steps, keep the curve, roll back, look again.

    source <data dir>/env
    python -m examples.demo --out demo-output

Speaks to the server through the unmodified hud SDK. Exits 0 if the reward climbed from below 0.4 to above 0.85 (with
--control: if it stayed flat), 1 if it did not, 2 if it could not run.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from examples.arithmetic.problems import split_problems
from examples.figures import HeldOutScore, RunFigures, StepFigures

if TYPE_CHECKING:
    from hud.train.types import CheckpointResponse

    from examples.grpo import Loop

URLS = ("HUD_API_URL", "HUD_RL_URL", "HUD_GATEWAY_URL", "HUD_TELEMETRY_URL", "HUD_RUNTIME_URL")
NUM_SHOWN = 6

console = Console(soft_wrap=True, highlight=False)


def main() -> int:
    args = parse_args()
    missing = [name for name in (*URLS, "HUD_API_KEY") if not os.environ.get(name)]
    if missing:
        console.print(f"not set: {', '.join(missing)}. Run `source <data dir>/env` first.")
        return 2
    skip_loading_certificates()
    from hud.utils.exceptions import HudException  # only now: the SDK reads the environment when it is imported

    from examples.grpo import NothingToTrainOn

    try:
        return asyncio.run(run_demo(args))
    except (HudException, NothingToTrainOn, ValueError) as error:
        console.print(f"[bold red]the demo could not go on:[/] {error}")
        return 2


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--base-model", default="tiny-arith", help="slug of the base to fork")
    parser.add_argument("--name", help="name of the fork (default: made from the time)")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for demo.json and demo.png")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--groups", type=int, default=8, help="problems a step")
    parser.add_argument("--group-size", type=int, default=8, help="answers a problem")
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument("--seed", type=int, default=0, help="which problems, in which order")
    parser.add_argument("--control", action="store_true", help="send reward 0 for everything: nothing may be learned")
    parser.add_argument("--stop-at", type=float, help="stop when the mean reward of five steps reaches this")
    parser.add_argument("--held-out", type=int, default=64, help="held-out problems in each greedy score")
    parser.add_argument("--held-out-every", type=int, default=10, help="steps between greedy scores")
    parser.add_argument("--max-concurrent", type=int, default=32, help="rollouts in flight")
    return parser.parse_args()


def skip_loading_certificates() -> None:
    """Make the SDK's many short-lived HTTP clients cheap when every server is plain http.

    Each report of a rollout opens a client, and each client parses a bundle of some 140 root certificates: 50 of 65
    CPU milliseconds a rollout, measured. A certificate folder is read only when a TLS peer shows up.
    """
    folder = ssl.get_default_verify_paths().capath
    if folder and all(os.environ[name].startswith("http://") for name in URLS):
        os.environ.pop("SSL_CERT_FILE", None)
        os.environ["SSL_CERT_DIR"] = folder


async def run_demo(args: argparse.Namespace) -> int:
    from examples.grpo import Loop, LoopConfig, fork_model

    if args.control:  # it warns of every batch without reward spread, which is the control's point
        logging.getLogger("hud.train.client").setLevel(logging.ERROR)
    config = LoopConfig(
        args.groups, args.group_size, args.lr, args.seed, args.control, args.held_out, args.max_concurrent
    )
    figures = RunFigures(settings={name: value for name, value in vars(args).items() if name != "out"})
    started = time.monotonic()
    try:
        kind = "control" if args.control else "arith"
        figures.model = fork_model(args.base_model, args.name or f"{kind}-{time.time_ns() // 1_000_000:x}")
        console.print(f"forked [bold]{args.base_model}[/] as [bold]{figures.model}[/]")
        async with Loop(figures.model, config) as loop:
            await train(loop, args, figures)
            checkpoints = await loop.trainer.checkpoints()
            show_tree(figures.model, checkpoints)
            await show_rollback(loop, checkpoints, figures)
    finally:
        figures.seconds = round(time.monotonic() - started, 1)
        figures.save(args.out)
    passed, sentence = figures.verdict()
    console.print(f"[bold {'green' if passed else 'red'}]{sentence}[/] ({figures.seconds:.0f} s, {args.out}/demo.png)")
    return 0 if passed else 1


async def train(loop: Loop, args: argparse.Namespace, figures: RunFigures) -> None:
    await score_held_out(loop, figures)
    for step in range(1, args.steps + 1):
        figures.steps.append(await loop.step())
        console.print(step_line(figures.steps[-1], args.steps))
        enough = args.stop_at is not None and step >= 5 and figures.smoothed()[-1] >= args.stop_at
        if step % args.held_out_every == 0 or step == args.steps or enough:
            await score_held_out(loop, figures)
        if enough:
            break


async def score_held_out(loop: Loop, figures: RunFigures) -> None:
    score: HeldOutScore = await loop.score_held_out()
    figures.held_out.append(score)
    console.print(f"          held-out problems, greedy: [yellow]{score.reward:.2f}[/] of {score.num_problems}")


def step_line(figures: StepFigures, num_steps: int) -> str:
    kl = f"{figures.kl:.1e}" if figures.kl is not None else "-"
    failed = f"  [red]{figures.num_failed} failed[/]" if figures.num_failed else ""
    return (
        f"step {figures.step:>2}/{num_steps}  reward [cyan]{figures.reward:.3f}[/]  kl {kl}  "
        f"{figures.tokens_per_s:>4.0f} tok/s  rollout {figures.rollout_s:.1f} s  training {figures.training_s:.1f} s"
        f"{failed}"
    )


def show_tree(model: str, checkpoints: Sequence[CheckpointResponse]) -> None:
    """The checkpoint tree; a run of steps without a branch is one level, so that a straight run reads as a list."""
    children: dict[str | None, list[CheckpointResponse]] = {}
    known = {node.id for node in checkpoints}
    for node in checkpoints:
        parent = node.prev_model_checkpoint_id if node.prev_model_checkpoint_id in known else None
        children.setdefault(parent, []).append(node)
    root = Tree(f"[bold]{model}[/] (base weights)")
    pending = [(root, child) for child in children.get(None, [])]
    while pending:
        branch, node = pending.pop(0)
        leaf = branch.add(node_line(node))
        below = children.get(node.id, [])
        pending.extend((branch if len(below) == 1 else leaf, child) for child in below)
    console.print(root)


def node_line(node: CheckpointResponse) -> str:
    reward = f"reward {node.mean_reward:.3f}" if node.mean_reward is not None else "reward -"
    mark = "  [green]← head[/]" if node.is_active else ""
    return f"{node.name or node.id[:8]}  {reward}  {node.num_traces or 0} trajectories{mark}"


async def show_rollback(loop: Loop, checkpoints: Sequence[CheckpointResponse], figures: RunFigures) -> None:
    """Serve the first checkpoint again, ask it the same problems, and come back."""
    problems = split_problems()[1][:NUM_SHOWN]
    first, last = checkpoints[0], checkpoints[-1]
    trained = await loop.answer(problems)
    await loop.roll_back(first)
    early = await loop.answer(problems)
    await loop.roll_back(last)
    restored = await loop.answer(problems)
    table = Table(title=f"head rolled back to {first.name}, then forward again")
    for heading in ("held-out problem", "right", "trained", "rolled back", "forward again"):
        table.add_column(heading)
    for problem, *answers in zip(problems, trained, early, restored, strict=True):
        table.add_row(problem.prompt, str(problem.answer), *answers)
    console.print(table)
    figures.rollback = {
        "to": first.id,
        "back_to": last.id,
        "problems": [problem.prompt for problem in problems],
        "trained": trained,
        "rolled_back": early,
        "restored": restored,
    }


if __name__ == "__main__":
    sys.exit(main())
