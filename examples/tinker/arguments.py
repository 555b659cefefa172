"""The options that all loops have."""

from __future__ import annotations

import argparse


def loop_parser(name: str, description: str | None, *, steps: int, learning_rate: float) -> argparse.ArgumentParser:
    """A parser of what every loop takes; each adds its own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.tinker.{name}", description=(description or "").split("\n")[0]
    )
    parser.add_argument("--base-model", default="tiny-arith")
    parser.add_argument("--name", default=name.replace("_", "-"), help="of the run, by which it is a model of Headway")
    parser.add_argument("--tokenizer", help="folder of the tokenizer (default: by the base's name, from the hub)")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--lr", type=float, default=learning_rate)
    parser.add_argument("--rank", type=int, default=32, help="of the LoRA adapter")
    parser.add_argument("--seed", type=int, default=0, help="of the adapter, the problems and the samples")
    return parser
