"""How long an 8-token forward_backward and its optim_step take, both calls together, and whose time it is.

Run by `make bench` under `headway up`, so that every process is the real one: HTTP, op log, trainer, checkpoint files
with fsync, sampler, promotion, and back. "torch" is what the engine reports for its pass and its update; "ours" is
the rest. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import uuid

import httpx

BATCH = {
    "inputs": [
        {
            "samples": [
                {"prompt_token_ids": [5, 6], "output_token_ids": [7, 8 + i], "output_logprobs": [-1.0, -1.5]},
            ],
            "reward": float(i),
        }
        for i in range(2)
    ],
    "group_size": 2,
}
"""Two trajectories of 2 prompt and 2 sampled tokens each: 8 tokens."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=10)
    options = parser.parse_args()
    client = httpx.Client(
        base_url=os.environ["HUD_RL_URL"],
        headers={"Authorization": f"Bearer {os.environ['HUD_API_KEY']}"},
        timeout=120,
        trust_env=False,
    )
    model_id = _fork(client)
    measured = [_step(client, model_id) for _ in range(options.warm_up + options.steps)][options.warm_up :]
    _report(measured)


def _fork(client: httpx.Client) -> str:
    base = next(m for m in client.get("/v2/models").json()["items"] if not m["is_trainable"])
    body = {"source_model_id": base["id"], "name": f"bench-{uuid.uuid4().hex[:8]}"}
    reply = client.post("/v2/models/fork", json=body).raise_for_status()
    return reply.json()["id"]


def _step(client: httpx.Client, model_id: str) -> dict[str, float]:
    started = time.perf_counter()
    passed = client.post(f"/v1/models/{model_id}/train/forward-backward", json=BATCH).raise_for_status().json()
    between = time.perf_counter()
    client.post(f"/v1/models/{model_id}/train/optim-step", json={"learning_rate": 1e-5}).raise_for_status()
    ended = time.perf_counter()
    checkpoint = client.get(f"/v2/models/{model_id}/checkpoints").json()[-1]["metrics"]
    torch_s = passed["metrics"]["seconds:sum"] + checkpoint["seconds"]
    total_s = ended - started
    return {
        "total_ms": total_s * 1e3,
        "forward_backward_ms": (between - started) * 1e3,
        "optim_step_ms": (ended - between) * 1e3,
        "torch_ms": torch_s * 1e3,
        "ours_ms": (total_s - torch_s) * 1e3,
    }


def _report(measured: list[dict[str, float]]) -> None:
    figures = {
        name: {
            "median": round(statistics.median(m[name] for m in measured), 2),
            "p90": round(statistics.quantiles((m[name] for m in measured), n=10)[-1], 2),
        }
        for name in measured[0]
    }
    print(f"8-token forward_backward + optim_step, {len(measured)} steps")
    print(f"{'':22}{'median':>10}{'p90':>10}")
    for name, row in figures.items():
        print(f"{name:22}{row['median']:>10}{row['p90']:>10}")
    print(json.dumps({"bench": "step_latency", "steps": len(measured), "cores": os.cpu_count(), **figures}))


if __name__ == "__main__":
    main()
