"""The same code on a runner that is not root: by namespaces of users, and by Landlock."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.unit.runner.environments import as_nobody, test_hostile_code


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become nobody; all others run test_hostile_code themselves"
)
@pytest.mark.parametrize("isolation", ["namespaces", "landlock"])
def test_a_runner_that_is_not_root_keeps_it_apart(isolation: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}/of_nobody"]
        done = subprocess.run(
            [sys.executable, as_nobody.__file__, *tests, test_hostile_code.__file__],
            env={**os.environ, "HEADWAY_TEST_ISOLATION": isolation, "PYTHONDONTWRITEBYTECODE": "1", "HOME": folder},
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
