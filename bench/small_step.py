"""An 8-token forward_backward and its optim_step over HTTP, sent to the `headway up` that the bench runs under."""

from __future__ import annotations

import os
import time
import uuid
from typing import Any

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

Row = dict[str, float]


def connect(num_connections: int = 1) -> httpx.Client:
    """A client of the server in the environment, which keeps so many connections."""
    return httpx.Client(
        base_url=os.environ["HUD_RL_URL"],
        headers={"Authorization": f"Bearer {os.environ['HUD_API_KEY']}"},
        timeout=120,
        trust_env=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=num_connections),
    )


def fork(client: httpx.Client, lora_rank: int | None = None) -> str:
    """A new fork of the base, with an adapter of this rank (None: the server's default); its id."""
    base = next(m for m in client.get("/v2/models").json()["items"] if m["base_model"] is None)
    body: dict[str, Any] = {"source_model_id": base["id"], "name": f"bench-{uuid.uuid4().hex[:8]}"}
    body |= {"lora": {"rank": lora_rank}} if lora_rank is not None else {}
    reply = client.post("/v2/models/fork", json=body).raise_for_status()
    return reply.json()["id"]


def promoted_step(client: httpx.Client, model_id: str) -> Row:
    """Both calls, and when each was sent and answered."""
    started_at, started = time.time(), time.perf_counter()
    passed = client.post(f"/v1/models/{model_id}/train/forward-backward", json=BATCH).raise_for_status().json()
    between_at, between = time.time(), time.perf_counter()
    client.post(f"/v1/models/{model_id}/train/optim-step", json={"learning_rate": 1e-5}).raise_for_status()
    ended_at, ended = time.time(), time.perf_counter()
    return {
        "total_ms": (ended - started) * 1e3,
        "forward_backward_ms": (between - started) * 1e3,
        "optim_step_ms": (ended - between) * 1e3,
        "torch_ms": passed["metrics"]["seconds:sum"] * 1e3,
        "_sent_at": started_at,
        "_between_at": between_at,
        "_ended_at": ended_at,
    }
