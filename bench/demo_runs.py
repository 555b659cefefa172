"""Demo runs as one file of figures: `python -m bench.demo_runs --what TEXT FOLDER… > bench/results/NAME.json`.

Each folder is what a demo wrote (`examples.demo --out FOLDER`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from examples.figures import RunFigures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.demo_runs", description=__doc__)
    parser.add_argument("--what", required=True, help="how the runs were made, and on which machine")
    parser.add_argument("folders", type=Path, nargs="+", help="folders with a demo.json")
    args = parser.parse_args()
    print(json.dumps({"what": args.what, "runs": [run_in(folder) for folder in args.folders]}, indent=1))


def run_in(folder: Path) -> dict[str, Any]:
    """What is kept of one run."""
    figures = RunFigures.load(folder)
    if figures is None or not figures.finished:
        raise SystemExit(f"{folder} has no demo that came to its end; run it again, which goes on where it stopped")
    return {
        "seed": figures.settings["seed"],
        "verdict": figures.verdict()[1],
        "seconds": figures.seconds,
        "reward": [round(step.reward, 3) for step in figures.steps],
        "held_out": {str(score.step): round(score.reward, 3) for score in figures.held_out},
        "max_abs_kl": max((abs(step.kl) for step in figures.steps if step.kl is not None), default=None),
        "rollout_s": [round(step.rollout_s, 1) for step in figures.steps],
        "training_s": [round(step.training_s, 1) for step in figures.steps],
    }


if __name__ == "__main__":
    main()
