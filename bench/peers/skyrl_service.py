"""SkyRL's Tinker service: FastAPI, SQLite, and an engine in JAX.

It starts its engine with the `uv run` that it was started with itself; --no-project has both in the environment that is
there. It takes no protobuf, so the last `tinker` that sends JSON alone is pinned.
"""

from __future__ import annotations

import json
import sys

from bench.peers.contender import DRIVER, MAX_MODELS, RANK, Contender, Place, Running, free_port, wait_for
from bench.peers.environments import UV, make_environment

_REQUIREMENTS = ["skyrl[tinker,jax]==0.3.0", "tinker==0.18.2"]


def _start(place: Place, running: Running) -> None:
    python = make_environment("skyrl", _REQUIREMENTS)
    port, folder = free_port(), place.folder
    command = [UV, "run", "--no-project", "--active", "-m", "skyrl.tinker.api", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--base-model", place.base, "--backend", "jax", "--backend-config"]
    command += [json.dumps({"max_lora_adapters": MAX_MODELS + 1, "max_lora_rank": RANK})]
    command += ["--checkpoints-base", folder / "checkpoints", "--database-url", f"sqlite:///{folder}/tinker.db"]
    venv = python.parents[1]
    env = {"VIRTUAL_ENV": str(venv), "PATH": f"{venv}/bin:{UV.parent}:/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    service = running.serve(command, env | _older_python() | {"JAX_PLATFORMS": "cpu", "UV_OFFLINE": "1"})
    url = f"http://127.0.0.1:{port}"
    wait_for(f"{url}/api/v1/healthz", service, running.service_log)
    running.drive([python, "-P", DRIVER, url, "tml-bench", str(place.base)])


def _older_python() -> dict[str, str]:
    return {"PYTHONPATH": str(DRIVER.parent / "skyrl_on_311")} if sys.version_info < (3, 12) else {}


CONTENDER = Contender(
    "skyrl", "weights and moments are in memory until save_state; calls are in SQLite; alpha is always 32", _start
)
