"""The `hud` command of the unmodified SDK."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.forked_command import Command

HUD = Path(sys.executable).with_name("hud")
_COMMAND = Command(str(HUD), "hud.cli.__main__:main")


def run_hud(*args: str, cwd: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    """`hud ARGS` with this process's environment and these changes to it. Killed after two minutes: status -9."""
    return _COMMAND.run(args, cwd or Path.cwd(), {**os.environ, "COLUMNS": "200", **changes})
