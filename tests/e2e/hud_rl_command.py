"""The `hud` command of hud-python 0.5.41, the last that has `hud rl`, in an environment of its own: it needs other
versions than the SDK that the rest is tested with."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from tests.e2e.box import Box

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "examples/hud_rl/requirements.txt"
MADE_BY_MAKE = ROOT / ".venv-hud-rl"
MADE_HERE = ROOT / ".headway-cache/hud-rl"


@lru_cache(maxsize=1)
def hud_rl_command() -> Path:
    """The environment that `make test` made, or else one that is made now: a second with uv's cache."""
    for place in (MADE_BY_MAKE, MADE_HERE):
        if (place / "bin/hud").exists():
            return place / "bin/hud"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "-q", "--allow-existing", "--python", sys.executable, MADE_HERE], check=True)
    python = MADE_HERE / "bin/python"
    subprocess.run([uv, "pip", "install", "-q", "--python", python, "-r", REQUIREMENTS], check=True)
    return MADE_HERE / "bin/hud"


def run_hud_rl(box: Box, cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`hud ARGS`, pointed at the box."""
    environment = {**os.environ, **box.env, "COLUMNS": "200", "HUD_SKIP_VERSION_CHECK": "1", "NO_PROXY": "127.0.0.1"}
    environment["HOME"] = str(cwd)
    command = [hud_rl_command(), *args]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
