"""From optim_step to served by vLLM, for the tiny base: what a promotion consists of.

Run against a service whose samplers are vLLM: `headway up --sampler-backend vllm … -- python -m bench.promote_vllm`.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

_STEPS = 20


def main() -> None:
    """Print one JSON line of medians, in ms."""
    http = httpx.Client(
        base_url=os.environ["HUD_API_URL"],
        headers={"Authorization": f"Bearer {os.environ['HUD_API_KEY']}"},
        trust_env=False,
        timeout=300,
    )
    base = next(m for m in _call(http, "GET", "/v2/models")["items"] if m["model_name"] == "tiny-arith")
    fork = {"source_model_id": base["id"], "name": f"promote-{time.time_ns()}"}
    model = _call(http, "POST", "/v2/models/fork", fork)
    rounds = [_round(http, model["id"], fork["name"], seed) for seed in range(_STEPS)]
    figures = {name: [each[name] for each in rounds] for name in rounds[0]} | _logged(_STEPS)
    print(
        json.dumps(
            {
                "bench": "promote_vllm",
                "cores": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1),
                "steps": _STEPS,
                **{f"{name}_ms": round(1e3 * statistics.median(values), 1) for name, values in figures.items()},
            }
        )
    )


def _round(http: httpx.Client, model_id: str, slug: str, seed: int) -> dict[str, float]:
    chat = {
        "model": slug,
        "messages": [{"role": "user", "content": "12+30=?"}],
        "logprobs": True,
        "return_token_ids": True,
        "max_tokens": 8,
    }
    choices = _call(http, "POST", "/v1/chat/completions", {**chat, "n": 4, "seed": seed})["choices"]
    inputs = [{"samples": [_sample(choice)], "reward": float(i)} for i, choice in enumerate(choices)]
    _call(http, "POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": inputs, "group_size": 4})
    started = time.perf_counter()
    done = _call(http, "POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3})
    stepped = time.perf_counter()
    answer = _call(http, "POST", "/v1/chat/completions", {**chat, "temperature": 0.0, "max_tokens": 1})
    assert answer["checkpoint"]["id"] == done["checkpoint_id"]
    return {"optim_step": stepped - started, "first_token_after": time.perf_counter() - stepped}


def _sample(choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt_token_ids": choice["prompt_token_ids"],
        "output_token_ids": choice["token_ids"],
        "output_logprobs": [token["logprob"] for token in choice["logprobs"]["content"]],
    }


def _logged(num_loads: int) -> dict[str, list[float]]:
    """What the sampler says of its last loads."""
    log = Path(os.environ["BENCH_DATA_DIR"]) / "logs" / "sampler-tiny-arith.log"
    lines = [line for line in log.read_text().splitlines() if "adapter_in_vllm" in line][-num_loads:]
    loads = [json.loads(line) for line in lines]
    return {f"sampler_{part}": [load[f"{part}_s"] for load in loads] for part in ("check", "load", "canary")}


def _call(http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    reply = http.request(method, path, json=body)
    assert reply.is_success, reply.text
    return reply.json()


if __name__ == "__main__":
    main()
