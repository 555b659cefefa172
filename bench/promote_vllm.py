"""From the optimizer's end to the first token of the new policy, on real vLLM: what a promotion consists of.

    headway up --data-dir DIR --port 0 --sampler-backend vllm --base tiny-arith=.headway-cache/tiny-arith \\
        -- python -m bench.promote_vllm --data-dir DIR --out bench/results/promote-vllm-2-cores.json

Everything is on one machine, so that times from the trainer's log, the sampler's and ours are on one clock. In the
order in which it happens (the sampler's part while the trainer settles, and waits):

    save_ms            adapter, optimizer state and canary, written
    publish_ms         hashed, and renamed to where samplers look
    settle_ms          fsync, by the trainer, meanwhile
    sampler_verify_ms  the sampler finds the files and compares their hashes
    sampler_check_ms   configuration and shapes against the base's; links for vLLM
    sampler_load_ms    vLLM loads the adapter
    sampler_canary_ms  vLLM's logprobs against the trainer's
    wait_ms            what the trainer waited for the sampler after settling
    flip_ms            checkpoint, operation and head in one transaction
    rest_ms            what the trainer did between these: above all the row that tells samplers, after publishing
    reply_ms           until the client of optim_step has its answer
    first_token_ms     a streamed chat, from its sending to its first token
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from bench.figures import write_figures

_BASE = "tiny-arith"
_WARM_UP = 3
_CHAT = {
    "messages": [{"role": "user", "content": "12+30=?"}],
    "logprobs": True,
    "return_token_ids": True,
    "max_tokens": 8,
}

Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="of the `headway up` around us")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, help="write the figures here, too")
    parser.add_argument("--machine", default="", help="a word on the machine, for the figures")
    options = parser.parse_args()
    http = httpx.Client(
        base_url=os.environ["HUD_API_URL"],
        headers={"Authorization": f"Bearer {os.environ['HUD_API_KEY']}"},
        trust_env=False,
        timeout=300,
    )
    base = next(m for m in _call(http, "GET", "/v2/models")["items"] if m["model_name"] == _BASE)
    fork = {"source_model_id": base["id"], "name": f"promote-{time.time_ns():x}"}
    model = _call(http, "POST", "/v2/models/fork", fork)
    seen = [_step(http, model["id"], fork["name"], seed) for seed in range(_WARM_UP + options.steps)][_WARM_UP:]
    rows = [_row(options.data_dir / "logs", *each) for each in seen]
    figures: dict[str, Any] = {"machine": options.machine, "steps": len(rows), **_medians(rows)}
    write_figures("promote_vllm", figures, options.out)


def _step(http: httpx.Client, model_id: str, slug: str, seed: int) -> tuple[str, float, float]:
    """The new checkpoint, and when (s since the epoch) optim_step was answered and the next chat's first token came."""
    choices = _call(http, "POST", "/v1/chat/completions", {**_CHAT, "model": slug, "n": 4, "seed": seed})["choices"]
    inputs = [{"samples": [_sample(choice)], "reward": float(i)} for i, choice in enumerate(choices)]
    _call(http, "POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": inputs, "group_size": 4})
    done = _call(http, "POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3})
    answered = time.time()
    first_token, answered_by = 0.0, None
    chat = {**_CHAT, "model": slug, "temperature": 0.0, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=chat) as reply:
        assert reply.status_code == 200, reply.read()
        for chunk in (json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")):
            if not first_token and any(choice.get("token_ids") for choice in chunk["choices"]):
                first_token, answered_by = time.time(), chunk["checkpoint"]["id"]
    assert answered_by == done["checkpoint_id"], "the first token came from older weights"
    return done["checkpoint_id"], answered, first_token


def _row(logs: Path, checkpoint: str, answered: float, first_token: float) -> Row:
    """In seconds."""
    step = _logged(logs / f"trainer-{_BASE}.log", "step_done", "checkpoint", checkpoint)
    adapter = f"hw-{UUID(checkpoint).hex}"
    loaded = _logged(logs / f"sampler-{_BASE}.log", "adapter_loaded", "adapter", adapter)
    in_vllm = _logged(logs / f"sampler-{_BASE}.log", "adapter_in_vllm", "adapter", adapter)
    promoted = datetime.fromisoformat(step["timestamp"]).timestamp()
    optimizer_ended = promoted - step["since_adamw_s"]
    phases = ("save", "publish", "settle", "promote", "commit")
    return {
        "total": first_token - optimizer_ended,
        "save": step["save_s"],
        "publish": step["publish_s"],
        "settle": step["settle_s"],
        "sampler_verify": loaded["fetch_s"],
        "sampler_check": in_vllm["check_s"],
        "sampler_load": in_vllm["load_s"],
        "sampler_canary": in_vllm["canary_s"],
        "wait": step["promote_s"],
        "flip": step["commit_s"],
        "rest": step["since_adamw_s"] - sum(step[f"{phase}_s"] for phase in phases),
        "reply": answered - promoted,
        "first_token": first_token - answered,
    }


def _logged(log: Path, event: str, name: str, value: str) -> dict[str, Any]:
    lines = (json.loads(line) for line in log.read_text(errors="replace").splitlines() if f'"event": "{event}"' in line)
    return next(line for line in lines if line[name] == value)


def _medians(rows: list[Row]) -> dict[str, float]:
    """In ms; of the whole, the worst as well."""
    medians = {f"{part}_ms": round(1e3 * statistics.median(row[part] for row in rows), 1) for part in rows[0]}
    return {"total_max_ms": round(1e3 * max(row["total"] for row in rows), 1), **medians}


def _sample(choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt_token_ids": choice["prompt_token_ids"],
        "output_token_ids": choice["token_ids"],
        "output_logprobs": [token["logprob"] for token in choice["logprobs"]["content"]],
    }


def _call(http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    reply = http.request(method, path, json=body)
    assert reply.is_success, reply.text
    return reply.json()


if __name__ == "__main__":
    main()
