"""The release before this one, as it was landed: what runs beside this one while a service is upgraded.

To move it, after a release: set PINNED to the full hash of the release's commit (`git rev-parse v0.2.0^{commit}`).
"""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

PINNED = "4254f37d3e16f460ab27ee54135a22e6fa23913f"
ROOT = Path(__file__).parents[2]
_PACKAGES = ("wire", "store", "server", "trainer", "sampler", "runner", "cli", "migrations")


def check_out(folder: Path) -> Path:
    """Its packages in a folder. Skips the test where git does not have the commit, as in a shallow clone."""
    known = subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", f"{PINNED}^{{commit}}"], capture_output=True)
    if known.returncode:
        pytest.skip(f"commit {PINNED[:8]} is not in this clone: git fetch --unshallow")
    archive = folder / "release.tar"
    command = ["git", "-C", str(ROOT), "archive", f"--output={archive}", PINNED, *_PACKAGES]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "release", filter="data")
    return folder / "release"
