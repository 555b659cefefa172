"""What a box takes of the machine's memory before a large pass, right after it, and a minute later: PSS by plane.

    python -m bench.after_pass_memory --out bench/results/after-pass-memory.json

The base is a random one of 4.2 million parameters, the pass one of 16,384 tokens that share nothing, with its step.
Exits 0 if server, trainer, sampler, what these two are forked from, and PostgreSQL together take at most 1.2 times then
what they took after the start.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import write_figures
from bench.start_memory import REST_S, memory_of
from tests.e2e.box import Box

MOST = 1.2
_IDLE_S = 60.0
_SEQUENCES, _TOKENS = 8, 2048
_MAKE_BASE = "import pathlib, sys; from bench.peers.base import *; make_base(pathlib.Path(sys.argv[1]), base_config())"


def main() -> int:
    """Measure, print, write."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.after_pass_memory", description=about)
    parser.add_argument("--out", type=Path, help="file for the figures")
    parser.add_argument("--idle-s", type=float, default=_IDLE_S, help="seconds after the pass")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # PostgreSQL may be another user
        base = Path(folder) / "base"
        # In another process: whoever maps torch's libraries has a share in them.
        subprocess.run([sys.executable, "-c", _MAKE_BASE, str(base)], check=True)
        box = Box(Path(folder) / "data", base, slug="random").start()
        try:
            found = _before_and_after(box, args.idle_s)
        finally:
            box.stop()
    ratio = found["later"]["sum_mib"] / found["started"]["sum_mib"]
    print(f"\n{args.idle_s:.0f} s after the pass {ratio:.2f} times what there was after the start")
    write_figures("after_pass_memory", {**found, "ratio": round(ratio, 3)}, args.out)
    return 0 if ratio <= MOST else 1


def _before_and_after(box: Box, idle_s: float) -> dict[str, Any]:
    found = dict[str, Any]()
    time.sleep(REST_S)
    for name, act in (("started", None), ("passed", lambda: _pass(box)), ("later", lambda: time.sleep(idle_s))):
        if act is not None:
            act()
        print(f"\n{name}")
        found[name] = memory_of(box)
    return found


def _pass(box: Box) -> None:
    model = box.fork("large")
    draw = random.Random(0)
    half = _TOKENS // 2
    inputs = [
        {
            "samples": [
                {
                    "prompt_token_ids": [draw.randrange(256, 4000) for _ in range(half)],
                    "output_token_ids": [draw.randrange(256, 4000) for _ in range(half)],
                    "output_logprobs": [-8.0] * half,
                }
            ],
            "reward": float(number % 2),
        }
        for number in range(_SEQUENCES)
    ]
    train = f"/v1/models/{model}/train"
    passed = box.call("POST", f"{train}/forward-backward", {"inputs": inputs, "group_size": _SEQUENCES}, timeout=600.0)
    print({name: round(value, 2) for name, value in passed["metrics"].items() if "token" in name or "second" in name})
    box.call("POST", f"{train}/optim-step", {"learning_rate": 1e-5})


if __name__ == "__main__":
    sys.exit(main())
