"""`python -m examples.tiny_eyes --out DIR`: build the base model, or find it already built."""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.tiny_eyes.recipe import TinyEyesConfig, is_built


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.tiny_eyes", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder that will hold the model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = TinyEyesConfig(seed=args.seed)
    if is_built(args.out, config):
        print(f"{args.out}: already built")
        return
    from examples.tiny_eyes.build import build_tiny_eyes  # torch and transformers take seconds to import

    build_tiny_eyes(args.out, config, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
