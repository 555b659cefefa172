"""How OpenMP's threads wait."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wire.process.threads import usable_cores, wait_passively

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
def test_threads_of_any_command_that_loads_torch_spin_for_a_moment():
    """As libgomp displays it: it reads its settings once, when it is loaded, so nothing may have loaded it before."""
    clean = {name: value for name, value in os.environ.items() if name not in _OPENMP}
    command, env = [sys.executable, "-c", _COMMAND_AND_THEN_TORCH], {**clean, "OMP_DISPLAY_ENV": "verbose"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert re.findall(r"GOMP_SPINCOUNT = '(\w+)'", ran.stderr) == ["1000"], ran.stderr


@pytest.mark.parametrize(
    ("own", "added"),
    [
        ({"OMP_WAIT_POLICY": "active"}, {}),
        ({"OMP_WAIT_POLICY": "passive"}, {}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}),
        ({}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}),
    ],
)
def test_a_setting_of_the_operators_own_stays(own: dict[str, str], added: dict[str, str]):
    environment = dict(own)
    wait_passively(environment)
    assert environment == own | added


def test_threads_of_this_test_run_do_not_spin():
    assert os.environ.get("OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("own", "limits", "cores"),
    [
        ("0::/a/b", {"a/b/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/../outside", {"cpu.max": "50000 100000"}, 1),
        ("5:cpu,cpuacct:/a\n0::/", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 2),
        ("5:cpuset:/a\n4:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 64),
        ("0::/a", {"a/cpu.max": "nonsense"}, 64),
        ("", {}, 64),
    ],
)
def test_cores_are_those_that_control_groups_give_time_of(
    own: str, limits: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    for name, value in {"groups/own": own, **{f"groups/{name}": value for name, value in limits.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(value)
    assert usable_cores(tmp_path / "groups", tmp_path / "groups/own") == cores


def test_without_control_groups_all_cores_of_the_process_count(tmp_path: Path):
    assert usable_cores(tmp_path, tmp_path / "none") == len(os.sched_getaffinity(0))
