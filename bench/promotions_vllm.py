"""Promotions under load on real vLLM: is every answer by the weights that it names, and does anything grow?

    headway up --data-dir DIR --port 0 --sampler-backend vllm --base tiny-arith=.headway-cache/tiny-arith \\
        -- python -m bench.promotions_vllm --data-dir DIR --out bench/results/promotions-vllm-2-cores.json

Clients ask the gateway without a pause while the model they ask is promoted 200 times (`bench.promotion_clients`).
Afterwards the logprobs of all sampled tokens are computed anew from the files of the checkpoints that the answers name
(`bench.promotion_check`). Memory, open files, adapters in vLLM and folders are counted on the way, and once more when
what nobody wants has been let go and `headway gc` has run (`bench.footprint`).

Exits with 1 if a request failed, an answer was stale, or a logprob is further off than the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

from bench.figures import write_figures
from bench.footprint import Footprint, take_footprint, vllm_of
from bench.promotion_check import check_answers
from bench.promotion_clients import Seen, promote_under_load

LIMIT = 1e-4
"""Nats between the sampler's logprob of a token and the forward pass's."""
_LINGER_S = 90.0
"""A sampler lets go of what nobody has wanted for 60 s."""
_BASE = "tiny-arith"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="of the `headway up` around us")
    parser.add_argument("--base", type=Path, default=Path(".headway-cache/tiny-arith"), help="its base model's folder")
    parser.add_argument("--promotions", type=int, default=200)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--every", type=int, default=10, help="promotions between two counts")
    parser.add_argument("--out", type=Path, help="write the figures here, too")
    parser.add_argument("--machine", default="", help="a word on the machine, for the figures")
    options = parser.parse_args()
    checkpoints = options.data_dir / "checkpoints"
    vllm_url = vllm_of(os.getppid())
    footprints = list[Footprint]()

    def count(promotions: int) -> None:
        footprints.append(take_footprint(os.getppid(), vllm_url, checkpoints, promotions))

    def progress(seen: Seen) -> None:
        if len(seen.checkpoints) % options.every == 0:
            count(len(seen.checkpoints))
            print(_progress_line(seen, options.promotions, footprints[-1]), flush=True)

    count(0)
    model_id, seen = asyncio.run(
        promote_under_load(
            os.environ["HUD_API_URL"],
            os.environ["HUD_API_KEY"],
            _BASE,
            options.promotions,
            options.clients,
            progress,
        )
    )
    print(f"{seen.requests} requests; letting go of what nobody wants any more", flush=True)
    time.sleep(_LINGER_S)
    collected = _collect_garbage(options.data_dir)
    count(options.promotions)
    print(f"computing {len(seen.answers)} answers anew", flush=True)
    folder = checkpoints / UUID(model_id).hex
    adapters = {None: None, **{each: folder / UUID(each).hex / "adapter" for each in seen.checkpoints}}
    agreement = check_answers(options.base, adapters, seen.answers, LIMIT)
    figures: dict[str, Any] = {
        "machine": options.machine,
        "promotions": len(seen.checkpoints),
        "clients": options.clients,
        "seconds": round(seen.seconds, 1),
        "requests": seen.requests,
        "errors": sum(seen.errors.values()),
        "first_errors": dict(seen.errors.most_common(3)),
        "stale": seen.stale,
        "optim_step_ms": _percentiles(seen.optim_step_s),
        "logprobs": asdict(agreement),
        "not_finite": sum(times for error, times in seen.errors.items() if "not finite" in error),
        "collected": collected,
        "after_letting_go": asdict(footprints[-1]),
        "footprints": [asdict(each) for each in footprints[:-1]],
    }
    write_figures("promotions_vllm", figures, options.out)
    return 1 if figures["errors"] or seen.stale or agreement.over_limit else 0


def _progress_line(seen: Seen, num_promotions: int, now: Footprint) -> str:
    memory = ", ".join(f"{kind} {mib}" for kind, mib in now.rss_mib.items())
    return (
        f"promotion {len(seen.checkpoints):>3}/{num_promotions}  {seen.requests} requests, "
        f"{dict(seen.errors) or 0} errors, {seen.stale} stale  optim_step {seen.optim_step_s[-1]:.2f} s  "
        f"{now.adapter_folders} adapters  MiB: {memory}"
    )


def _collect_garbage(data_dir: Path) -> Any:
    command = [sys.executable, "-m", "cli", "gc", "--json", "--data-dir", str(data_dir)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def _percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{p}": round(1e3 * cuts[p - 1], 1) for p in (50, 90, 99)}


if __name__ == "__main__":
    sys.exit(main())
