"""Watch a model learn: fork a base, train it on sums, keep the curve, roll back, look again. Stopped, it goes on.

    source <data dir>/env
    python -m examples.demo --out demo-output

Speaks to the server through the unmodified hud SDK. Exits 0 if the reward climbed from below 0.4 to above 0.85 (with
--control: if it stayed flat), 1 if it did not, 2 if it could not run.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import signal
import ssl
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from examples.demo_arguments import NOT_SETTINGS, parse_args
from examples.demo_display import StepProgress, console, show_tree, step_line
from examples.demo_estimate import estimate, seconds_left
from examples.demo_resuming import return_to_last_step, unfinished
from examples.figures import HeldOutScore, RunFigures

if TYPE_CHECKING:
    from hud.train.types import CheckpointResponse

    from examples.grpo import Loop

URLS = ("HUD_API_URL", "HUD_RL_URL", "HUD_GATEWAY_URL", "HUD_TELEMETRY_URL", "HUD_RUNTIME_URL")
NUM_SHOWN = 6
STOPPED = 130  # as shells say it
HOW_TO_STOP = "Ctrl-C stops it; the same command goes on behind the last step that is done"


def main() -> int:
    args = parse_args((__doc__ or "").split("\n")[0])
    missing = [name for name in (*URLS, "HUD_API_KEY") if not os.environ.get(name)]
    if missing:
        console.print(f"not set: {', '.join(missing)}. Run `source <data dir>/env` first.")
        return 2
    skip_loading_certificates()
    from hud.utils.exceptions import HudException  # only now: the SDK reads the environment when it is imported

    from examples.grpo import NothingToTrainOn

    try:
        return asyncio.run(until_stopped(run_demo(args)))
    except asyncio.CancelledError:
        console.print("stopped; the same command goes on behind the last step that is done")
        return STOPPED
    except (HudException, NothingToTrainOn, ValueError) as error:
        console.print(f"[bold red]the demo could not go on:[/] {error}")
        return 2


def skip_loading_certificates() -> None:
    """Make the SDK's many short-lived HTTP clients cheap when every server is plain http.

    Each report of a rollout opens a client, and each client parses a bundle of some 140 root certificates: 50 of 65
    CPU milliseconds a rollout, measured. A certificate folder is read only when a TLS peer shows up.
    """
    folder = ssl.get_default_verify_paths().capath
    if folder and all(os.environ[name].startswith("http://") for name in URLS):
        os.environ.pop("SSL_CERT_FILE", None)
        os.environ["SSL_CERT_DIR"] = folder


async def until_stopped(work: Coroutine[None, None, int]) -> int:
    """The result; CancelledError after Ctrl-C and SIGTERM, of which `headway up` sends the second behind the first."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, lambda: task.cancelling() or task.cancel())
    return await task


async def run_demo(args: argparse.Namespace) -> int:
    from examples.grpo import Loop, LoopConfig
    from examples.sums import sums_for

    if args.control:  # it warns of every batch without reward spread, which is the control's point
        logging.getLogger("hud.train.client").setLevel(logging.ERROR)
    config = LoopConfig(
        args.groups, args.group_size, args.lr, args.seed, args.control, args.held_out, args.max_concurrent
    )
    progress = StepProgress()
    figures = await begin(args)
    started, seconds_before = time.monotonic(), figures.seconds
    try:
        sums = sums_for(args.base_model)
        async with Loop(figures.model, config, sums, progress.update, len(figures.steps)) as loop:
            await train(loop, args, figures, progress)
            checkpoints = await loop.trainer.checkpoints()
            show_tree(figures.model, checkpoints)
            await show_rollback(loop, [node for node in checkpoints if is_of(node, figures)], figures)
        figures.finished = True
    finally:
        figures.seconds = round(seconds_before + time.monotonic() - started, 1)
        figures.save(args.out)
    figures.draw(args.out)  # takes seconds, which one who stops it does not get
    passed, sentence = figures.verdict()
    console.print(f"[bold {'green' if passed else 'red'}]{sentence}[/] ({figures.seconds:.0f} s, {args.out}/demo.png)")
    return 0 if passed else 1


async def begin(args: argparse.Namespace) -> RunFigures:
    """The run that was stopped, or a fork and no figures yet."""
    from hud import TrainingClient

    from examples.grpo import fork_model

    settings = {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}
    stopped = None if args.from_start else unfinished(args.out, settings)
    if stopped and await return_to_last_step(TrainingClient(stopped.model), stopped):
        console.print(f"going on with [bold]{stopped.model}[/] behind step {len(stopped.steps)} of {args.steps}")
        return stopped
    kind = "control" if args.control else "arith"
    figures = RunFigures(settings)
    figures.model = fork_model(args.base_model, args.name or f"{kind}-{time.time_ns() // 1_000_000:x}")
    console.print(f"forked [bold]{args.base_model}[/] as [bold]{figures.model}[/]")
    return figures


async def train(loop: Loop, args: argparse.Namespace, figures: RunFigures, progress: StepProgress) -> None:
    if not figures.steps:
        seconds = await score_held_out(loop, figures, progress)
        expected = await estimate(loop, seconds)
        num_scores = math.ceil(args.steps / args.held_out_every)
        console.print(f"{expected.sentence(args.steps, num_scores)}\n{HOW_TO_STOP}")
    elif len(figures.steps) % args.held_out_every == 0 and figures.held_out[-1].step < len(figures.steps):
        await score_held_out(loop, figures, progress)
    for step in range(len(figures.steps) + 1, args.steps + 1):
        with progress.shown(f"step {step:>2}/{args.steps}"):
            figures.steps.append(await loop.step())
        figures.save(args.out)
        console.print(step_line(figures.steps[-1], args.steps, seconds_left(figures, args.steps)))
        enough = args.stop_at is not None and step >= 5 and figures.smoothed()[-1] >= args.stop_at
        if step % args.held_out_every == 0 or step == args.steps or enough:
            await score_held_out(loop, figures, progress)
            figures.save(args.out)
        if enough:
            break


async def score_held_out(loop: Loop, figures: RunFigures, progress: StepProgress) -> float:
    """How many seconds it took."""
    started = time.monotonic()
    with progress.shown("held-out problems"):
        score: HeldOutScore = await loop.score_held_out()
    figures.held_out.append(score)
    console.print(f"          held-out problems, greedy: [yellow]{score.reward:.2f}[/] of {score.num_problems}")
    return time.monotonic() - started


def is_of(node: CheckpointResponse, figures: RunFigures) -> bool:
    """Not of a step that was under way when the demo was stopped."""
    return node.id in {step.checkpoint_id for step in figures.steps}


async def show_rollback(loop: Loop, checkpoints: Sequence[CheckpointResponse], figures: RunFigures) -> None:
    """Serve the first checkpoint again, ask it the same problems, and come back."""
    problems = loop.sums.split()[1][:NUM_SHOWN]
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
