"""What the demo is asked to do; what is left out depends on the base."""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.figures import END_ABOVE

# learning rate, steps, problems in each greedy score, mean reward of the last steps above which it has climbed
_FOR_THE_TINY_BASE = (7e-4, 30, 64, END_ABOVE)
_FOR_OTHERS = (2e-4, 40, 48, 0.65)
NOT_SETTINGS = ("out", "from_start")
"""Arguments that change nothing about a run."""


def parse_args(description: str) -> argparse.Namespace:
    """The arguments, complete."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=description)
    parser.add_argument("--base-model", default="tiny-arith", help="slug of the base to fork")
    parser.add_argument("--name", help="name of the fork (default: made from the time)")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for demo.json and demo.png")
    parser.add_argument("--steps", type=int, help="default: 30 for tiny-arith, 40 for others")
    parser.add_argument("--groups", type=int, default=8, help="problems a step")
    parser.add_argument("--group-size", type=int, default=8, help="answers a problem")
    parser.add_argument("--lr", type=float, help="default: 7e-4 for tiny-arith, 2e-4 for others")
    parser.add_argument("--seed", type=int, default=0, help="which problems, in which order")
    parser.add_argument("--control", action="store_true", help="send reward 0 for everything: nothing may be learned")
    parser.add_argument("--stop-at", type=float, help="stop when the mean reward of five steps reaches this")
    parser.add_argument("--held-out", type=int, help="held-out problems in each greedy score")
    parser.add_argument("--held-out-every", type=int, default=10, help="steps between greedy scores")
    parser.add_argument(
        "--end-above", type=float, help="mean reward of the last five steps above which the run has climbed"
    )
    parser.add_argument("--max-concurrent", type=int, default=32, help="rollouts in flight")
    parser.add_argument("--from-start", action="store_true", help="do not go on with a run that was stopped")
    args = parser.parse_args()
    lr, steps, held_out, end_above = _FOR_THE_TINY_BASE if args.base_model == "tiny-arith" else _FOR_OTHERS
    args.lr, args.steps, args.held_out = args.lr or lr, args.steps or steps, args.held_out or held_out
    args.end_above = args.end_above or end_above
    return args
