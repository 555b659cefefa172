"""Watch a model learn to say what it sees: fork a base that reads digits off pictures, and train it.

    source <data dir>/env
    python -m examples.images_demo --out demo-output/images

Pictures come in plain chats, or with --agent as screenshots that the SDK's agent takes by a tool. Exits 0 if the reward
climbed from below 0.4 to above 0.85 and pictures of held-out numbers climbed with it, 1 if they did not, 2 if it could
not run.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from examples.demo import NOT_SETTINGS, skip_loading_certificates
from examples.demo_display import StepProgress, console, show_tree, step_line
from examples.demo_estimate import seconds_left
from examples.figures import END_ABOVE, WINDOW, RunFigures

if TYPE_CHECKING:
    from examples.images_loop import ImagesLoop


def main() -> int:
    args = parse_args()
    skip_loading_certificates()
    # Python 3.11 reports each cancelled stream of an environment that ends.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    from hud.utils.exceptions import HudException  # only now: the SDK reads the environment when it is imported

    from examples.grpo import NothingToTrainOn

    try:
        return asyncio.run(run_demo(args))
    except (HudException, NothingToTrainOn) as error:
        console.print(f"[bold red]the demo could not go on:[/] {error}")
        return 2


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.images_demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base-model", default="tiny-eyes", help="slug of the base to fork")
    parser.add_argument("--name", help="name of the fork (default: made from the time)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output/images"), help="folder for demo.json and demo.png"
    )
    parser.add_argument("--agent", action="store_true", help="pictures are screenshots that the SDK's agent takes")
    parser.add_argument("--steps", type=int, default=40, help="at most; ends when the reward is there")
    parser.add_argument("--groups", type=int, default=8, help="pictures a step")
    parser.add_argument("--group-size", type=int, default=8, help="readings of a picture")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0, help="which pictures, in which order")
    parser.add_argument("--held-out", type=int, default=40, help="pictures of held-out numbers in each greedy score")
    parser.add_argument("--held-out-every", type=int, default=5, help="steps between greedy scores")
    parser.add_argument("--max-concurrent", type=int, default=32, help="rollouts of the agent in flight")
    return parser.parse_args()


async def run_demo(args: argparse.Namespace) -> int:
    from examples.grpo import LoopConfig, fork_model
    from examples.images_loop import ImagesLoop
    from examples.images_players import PlainChats, ScreenshotAgent

    started, progress = time.monotonic(), StepProgress()
    figures = RunFigures({name: value for name, value in vars(args).items() if name not in NOT_SETTINGS})
    figures.model = fork_model(args.base_model, args.name or f"eyes-{time.time_ns() // 1_000_000:x}")
    console.print(f"forked [bold]{args.base_model}[/] as [bold]{figures.model}[/]")
    config = LoopConfig(args.groups, args.group_size, args.lr, args.seed, num_held_out=args.held_out)
    player = (
        ScreenshotAgent(figures.model, args.max_concurrent, progress.update)
        if args.agent
        else PlainChats(figures.model, progress.update)
    )
    loop = ImagesLoop(figures.model, config, player, progress.update)
    try:
        await train(loop, args, figures, progress)
        show_tree(figures.model, await loop.trainer.checkpoints())
        figures.finished = True
    finally:
        figures.seconds = round(time.monotonic() - started, 1)
        figures.save(args.out)
    figures.draw(args.out)
    passed, sentence = figures.verdict()
    console.print(f"[bold {'green' if passed else 'red'}]{sentence}[/] ({figures.seconds:.0f} s, {args.out}/demo.png)")
    return 0 if passed else 1


async def train(loop: ImagesLoop, args: argparse.Namespace, figures: RunFigures, progress: StepProgress) -> None:
    """Until the mean of the last steps is high enough."""
    await score_held_out(loop, figures, progress)
    for step in range(1, args.steps + 1):
        with progress.shown(f"step {step:>2}/{args.steps}"):
            figures.steps.append(await loop.step())
        figures.save(args.out)
        console.print(step_line(figures.steps[-1], args.steps, seconds_left(figures, args.steps)))
        enough = step >= WINDOW and figures.smoothed()[-1] > END_ABOVE
        if step % args.held_out_every == 0 or step == args.steps or enough:
            await score_held_out(loop, figures, progress)
            figures.save(args.out)
        if enough:
            break


async def score_held_out(loop: ImagesLoop, figures: RunFigures, progress: StepProgress) -> None:
    with progress.shown("held-out pictures"):
        score = await loop.score_held_out()
    figures.held_out.append(score)
    console.print(f"          held-out numbers, greedy: [yellow]{score.reward:.2f}[/] of {score.num_problems} pictures")


if __name__ == "__main__":
    sys.exit(main())
