"""The runner of `headway up`: one, with a key of its own, that is stopped before the server is."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from cli.box.children import Child
from cli.commands.keys import create_key, role_of
from cli.service.environment import LOCAL_HOSTS, without_proxy
from store.private_files import write_private

RUNNER = "runner"
"""Its name among the children."""
KEY_FILE = "runner-key"

_DRAIN_S = 5.0
"""Whoever stops the box waits for it. What is handed back is played again by the next one."""
_STOP_S = 10.0
_NEEDED = ("httpx", "hud", "websockets")
_WITHHELD = (
    "AWS_",
    "HEADWAY_CHECKPOINT_STORE",
    "HEADWAY_DATABASE_URL",
    "HEADWAY_METRICS_TOKEN",
    "HEADWAY_PLANE_",
    "HEADWAY_SAMPLER_TOKEN",
    "HEADWAY_TLS_",
    "HF_TOKEN",
    "HUD_",
    "PG",
    "TINKER_",
)


def missing_for_a_runner() -> str | None:
    """What is not installed of what a runner needs."""
    return next((name for name in _NEEDED if find_spec(name) is None), None)


def runner_child(database_url: str, data_dir: Path, origin: str, slots: int) -> Child:
    """It reaches the server over HTTP, and gets no credentials but its key, in a file for its owner alone."""
    command = [sys.executable, "-m", "cli", "runner", "--server", origin, "--key-file", str(data_dir / KEY_FILE)]
    command += ["--slots", str(slots), "--drain", str(_DRAIN_S)]
    _write_key(database_url, data_dir / KEY_FILE)
    environment = {"HEADWAY_DATA_DIR": str(data_dir), **without_proxy(LOCAL_HOSTS)}
    return Child(
        RUNNER,
        command,
        environment,
        stop_s=_DRAIN_S + _STOP_S,
        withheld=_WITHHELD,
        stops_first=True,
        is_optional=True,
    )


def _write_key(database_url: str, path: Path) -> None:
    """A key that is there and still works stays."""
    known = path.read_text().strip() if path.exists() else ""
    if not known or role_of(database_url, known) != "runner":
        write_private(path, create_key(database_url, team="default", name="headway up (runner)", role="runner"))
