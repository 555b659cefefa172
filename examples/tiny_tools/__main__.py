"""`python -m examples.tiny_tools --out DIR`: build the base model, or find it already built."""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.tiny_tools.recipe import TinyToolsConfig, is_built


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.tiny_tools", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder that will hold the model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = TinyToolsConfig(seed=args.seed)
    if is_built(args.out, config):
        print(f"{args.out}: already built")
        return
    from examples.tiny_tools.build import build_tiny_tools  # torch and transformers take seconds to import

    build_tiny_tools(args.out, config, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
