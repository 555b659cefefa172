"""TuFT: FastAPI, a Ray actor with transformers and PEFT, through its Tinker API.

Its sampler is vLLM on a GPU, and is left out. Ray gives its actor one OpenMP thread, and that is left so: with two that
spin, a step of 8 tokens beside a busy loop takes seconds. Eight rows at once, for one at a time, its default, is
slower.
"""

from __future__ import annotations

import json

from bench.peers.contender import DRIVER, MAX_MODELS, RANK, Contender, Place, Running, free_port, wait_for
from bench.peers.environments import make_environment
from bench.rows import ROWS_AT_ONCE

_BASE, _KEY = "bench-base", "tml-bench"
_REQUIREMENT = "tuft==0.2.2"
_LAUNCH = DRIVER.with_name("tuft_launch.py")


def _start(place: Place, running: Running) -> None:
    python = make_environment("tuft", [_REQUIREMENT], left_out=["vllm"])
    config, port = place.folder / "tuft.yaml", free_port()
    config.write_text(json.dumps(_config(place)))
    env = {"TUFT_HOME": str(place.folder), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [python, "-P", _LAUNCH, "launch", "--port", str(port), "--config", config]
    service = running.serve([*command, "--log-level", "warning"], env | {"HF_HUB_OFFLINE": "1"})
    url = f"http://127.0.0.1:{port}"
    wait_for(f"{url}/api/v1/healthz", service, running.service_log)
    running.drive([python, "-P", DRIVER, url, _KEY, _BASE])


def _config(place: Place) -> dict[str, object]:
    """YAML takes JSON."""
    base = {
        "model_name": _BASE,
        "model_path": str(place.base),
        "max_model_len": 16384,
        "capabilities": ["training"],
        "max_lora_rank": RANK,
        "max_loras": MAX_MODELS,
        "micro_batch_size": ROWS_AT_ONCE,
    }
    return {
        "checkpoint_dir": str(place.folder / "checkpoints"),
        "authorized_users": {_KEY: "bench"},
        "supported_models": [base],
    }


CONTENDER = Contender(
    "tuft", "weights, moments and calls are in memory until save_state; without a GPU it has no sampler", _start
)
