"""Headway: server, trainer, sampler and PostgreSQL, as `headway up` starts them, through its Tinker API."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from bench.peers.contender import DRIVER, START_S, Contender, Failed, Place, Running, wait_for
from bench.peers.environments import ROOT

_BASE = "bench-base"


def _start(place: Place, running: Running) -> None:
    data = place.folder / "data"
    command = [sys.executable, "-m", "cli", "up", "--data-dir", data, "--port", "0", "--no-runner"]
    service = running.serve([*command, "--base", f"{_BASE}={place.base}"], {"PYTHONPATH": str(ROOT)})
    exports = _exports(data / "env", service)
    wait_for(f"{exports['HUD_API_URL']}/readyz", service, running.service_log)
    running.drive([sys.executable, "-P", DRIVER, exports["TINKER_BASE_URL"], exports["TINKER_API_KEY"], _BASE])


def _exports(path: Path, service: subprocess.Popen[bytes]) -> dict[str, str]:
    """Of the file that `headway up` writes once its address is known."""
    deadline = time.monotonic() + START_S
    while not path.exists():
        if service.poll() is not None or time.monotonic() > deadline:
            raise Failed("headway up wrote no env file")
        time.sleep(0.1)
    lines = [shlex.split(line) for line in path.read_text().splitlines()]
    return dict(words[1].split("=", 1) for words in lines if words[:1] == ["export"])


CONTENDER = Contender(
    "headway", "promotion waits for save_weights_for_sampler; calls are durable, a kill costs no bit", _start
)
