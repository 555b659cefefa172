"""How OpenMP's threads wait."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from wire.process.threads import wait_passively

_OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

_COMMAND_AND_THEN_TORCH = """
from cli.main import app
try:
    app(["migrate", "--database-url", "no database"])
except BaseException:
    pass
import torch
"""


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp shows its spins, others do not")
def test_threads_of_any_command_that_loads_torch_do_not_spin():
    """As libgomp displays it: it reads its settings once, when it is loaded, so nothing may have loaded it before."""
    clean = {name: value for name, value in os.environ.items() if name not in _OPENMP}
    command, env = [sys.executable, "-c", _COMMAND_AND_THEN_TORCH], {**clean, "OMP_DISPLAY_ENV": "verbose"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert re.findall(r"GOMP_SPINCOUNT = '(\w+)'", ran.stderr) == ["0"], ran.stderr


def test_a_setting_of_the_operators_own_stays():
    environment = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "7"}
    wait_passively(environment)
    assert environment == {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "7"}


def test_threads_of_this_test_run_do_not_spin():
    assert os.environ.get("OMP_WAIT_POLICY")
