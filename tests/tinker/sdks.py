"""Tinker SDKs beside one another, unpacked in `.headway-cache/tinker`; their requirements are this environment's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tests.e2e.box import Box

CACHE = Path(__file__).parents[2] / ".headway-cache" / "tinker"
VERSIONS = ("0.18.2", "0.22.7", "0.25.0", "0.30.4", "0.36.0", "0.38.0")


def sdk(version: str) -> Path:
    """The folder to put on PYTHONPATH; downloaded the first time."""
    folder = CACHE / version
    if not (folder / "tinker").exists():
        with tempfile.TemporaryDirectory() as wheels:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", wheels, f"tinker=={version}"]
            subprocess.run(pip, check=True)
            (wheel,) = Path(wheels).glob("*.whl")
            zipfile.ZipFile(wheel).extractall(folder)
    return folder


RUN = """
import os, runpy, sys
sys.argv = sys.argv[1:]
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__")
sys.stdout.flush()
os._exit(0)
"""
"""Runs a program, a file or a module, and ends the process with it: the SDK leaves threads behind, whose requests are
cut off while the interpreter is torn down, and now and then that ends in a crash."""


def run_with_sdk(box: Box, version: str, program: Path, folder: Path, *args: str, timeout_s: float = 240) -> Any:
    """Run a program with this version; what it prints last, as JSON.

    folder: it runs there, where the base's tokenizer lies under the base's name, as the SDK looks for it.
    """
    folder.mkdir(exist_ok=True)
    if not (tokenizer := folder / "tiny-arith").exists():
        tokenizer.symlink_to(Path(__file__).parents[2] / ".headway-cache" / "tiny-arith")
    env = {**os.environ, **box.env, "PYTHONPATH": str(sdk(version)), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(program), *args]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, (
        f"{version}, {done.returncode}: {done.stdout[-2000:]}\n{done.stderr[-6000:]}\n{box.logs()}"
    )
    return json.loads(done.stdout.splitlines()[-1])
