"""A virtual environment a contender, under .headway-cache/peers, of what the package registry has for it.

As for the other environments of the Makefile, pip puts torch there, from wherever PIP_ARGS say, and uv the rest:
overrides keep that torch, and leave out what a training service on a CPU never calls.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.clock import say

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".headway-cache" / "peers"
TORCH = "torch==2.13.0"
UV = Path(sys.executable).parent / "uv"


class NotInstalled(RuntimeError):
    """The registry does not have it, or what it needs is not to be had together."""


def make_environment(name: str, requirements: Sequence[str], left_out: Sequence[str] = ()) -> Path:
    """Path of its interpreter. A second call with the same requirements is quick. Raises NotInstalled."""
    folder = FOLDER / name
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join([TORCH, *requirements, *(f"without {package}" for package in left_out)])
    if done.exists() and done.read_text() == wanted:
        return python
    say(f"{name}: installing {', '.join(requirements)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    overrides = folder.parent / f"{name}-overrides.txt"
    overrides.write_text("\n".join([TORCH, *(f'{package} ; sys_platform == "never"' for package in left_out)]) + "\n")
    _run([UV, "venv", "--allow-existing", "--seed", "--python", sys.executable, folder])
    _run([python, "-m", "pip", "install", "--quiet", *shlex.split(os.environ.get("PIP_ARGS", "")), TORCH])
    install = [UV, "pip", "install", "--quiet", "--system-certs", "--python", python]
    _run([*install, "--overrides", overrides, *requirements])
    done.write_text(wanted)
    return python


def _run(command: Sequence[str | Path]) -> None:
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise NotInstalled(" ".join((found.stderr or found.stdout).split())[-300:])
