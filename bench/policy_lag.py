"""Managed runs of the demo's task, strictly on-policy and one step off-policy, side by side: wall time and curve.

    python -m bench.policy_lag [--steps 30] [--lags 0 1] [--base PATH]

A whole box (`headway up`) with the tiny base, in which the demo's environment is deployed. For each lag a fork of the
base is trained by a run of the same settings and seed, one run after the other. With a lag of 1 the rollouts of a step
begin while the step before trains.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.figures import write_figures
from bench.gateway import free_port

_ROOT = Path(__file__).parents[1]
_ENVIRONMENT = _ROOT / "examples" / "deployed"
_SUMS = [(a, b) for a in range(11, 27, 2) for b in range(12, 40, 4)]
_ENDED = ("completed", "stopped", "failed", "cancelled")
_START_S, _RUN_S = 300.0, 3600.0


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--lags", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--tasks-per-step", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=7e-4)
    parser.add_argument("--base", type=Path, default=_ROOT / ".headway-cache" / "tiny-arith")
    parser.add_argument("--machine", default="", help="a word on the machine, for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as folder, _box(Path(folder), options.base) as http:
        _deploy(http)
        figures = {f"lag {lag}": _run(http, lag, options) for lag in options.lags}
    settings = {name: getattr(options, name) for name in ("steps", "tasks_per_step", "learning_rate", "machine")}
    write_figures("policy_lag", {**settings, **figures})


@contextmanager
def _box(folder: Path, base: Path) -> Generator[httpx.Client]:
    """`headway up`, and a client with a member's key."""
    folder.chmod(0o755)  # the embedded PostgreSQL has a user of its own
    data = folder / "data"
    command = [sys.executable, "-m", "cli", "up", "--data-dir", str(data), "--port", str(free_port())]
    with (folder / "up.log").open("wb") as log:
        box = subprocess.Popen([*command, "--base", f"tiny-arith={base}"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START_S
        while "Headway is up" not in (folder / "up.log").read_text():
            if box.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "up.log").read_text()[-2000:])
            time.sleep(0.5)
        lines = (line.removeprefix("export ").split("=", 1) for line in (data / "env").read_text().splitlines())
        env = dict(lines)
        headers = {"Authorization": f"Bearer {env['HUD_API_KEY']}"}
        with httpx.Client(base_url=env["HUD_API_URL"], headers=headers, timeout=120, trust_env=False) as http:
            yield http
    finally:
        box.terminate()
        box.wait()


def _deploy(http: httpx.Client) -> None:
    """As `hud deploy` does it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in ("env.py", "pyproject.toml"):
            tar.add(_ENVIRONMENT / name, name)
    upload = _call(http, "POST", "/v2/builds/upload-url")
    httpx.put(upload["upload_url"], content=packed.getvalue(), trust_env=False).raise_for_status()
    build = {"source": "direct", "build_id": upload["build_id"], "name": "arithmetic", "no_cache": False}
    build_id = _call(http, "POST", "/v2/builds/trigger", build)["id"]
    while (status := _call(http, "GET", f"/v2/builds/{build_id}/status"))["status"] == "IN_PROGRESS":
        time.sleep(0.5)
    if status["status"] != "SUCCEEDED":
        raise RuntimeError(str(status))


def _run(http: httpx.Client, lag: int, options: argparse.Namespace) -> dict[str, Any]:
    bases = {row["model_name"]: row["id"] for row in _call(http, "GET", "/v2/models")["items"]}
    fork = {"source_model_id": bases["tiny-arith"], "name": f"lag-{lag}"}
    model = _call(http, "POST", "/v2/models/fork", fork)["model_name"]
    tasks = [{"env": "arithmetic", "id": "add", "args": {"a": a, "b": b}, "slug": f"{a}+{b}"} for a, b in _SUMS]
    config = {
        "steps": options.steps,
        "tasks_per_step": options.tasks_per_step,
        "learning_rate": options.learning_rate,
        "max_policy_lag": lag,
        "max_tokens": 8,
        "max_turns": 1,
        "max_concurrent": 64,
        "save_steps": 0,
        "seed": 1,
    }
    began = time.monotonic()
    request = {"model": model, "taskset": {"name": "sums", "tasks": tasks}, "config": config}
    run = _call(http, "POST", "/v2/runs", request)
    while run["state"] not in _ENDED and time.monotonic() - began < _RUN_S:
        time.sleep(0.5)
        run = _call(http, "GET", f"/v2/runs/{run['id']}")
    wall_s = time.monotonic() - began
    rows = _call(http, "GET", f"/v2/runs/{run['id']}/metrics")
    steps = [row for row in (rows["items"] if isinstance(rows, dict) else rows) if row["kind"] == "step"]
    return {
        "state": run["state"],
        "error": run.get("error"),
        "wall_s": round(wall_s, 1),
        "s_per_step": round(wall_s / max(1, len(steps)), 2),
        "rewards": [None if row["reward"] is None else round(row["reward"], 3) for row in steps],
    }


def _call(http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    reply = http.request(method, path, json=body)
    if reply.is_error:
        raise RuntimeError(f"{path}: {reply.status_code} {reply.text}")
    return reply.json()


if __name__ == "__main__":
    main()
