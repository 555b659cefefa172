from __future__ import annotations

import ast
import signal
import subprocess
import sys
import timeit
from pathlib import Path

import pytest

from tests.rules import PACKAGES
from wire.process import faults
from wire.process.faults import POINTS, Fault, fault_point

_REACH = (
    "from wire.process.faults import arm_faults, fault_point\narm_faults()\n"
    "for _ in range(3): fault_point('take:after-commit')"
)


def named_in_the_code() -> list[str]:
    files = [path for package in PACKAGES for path in Path(package).rglob("*.py")]
    calls = [node for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    points = [call for call in calls if ast.unparse(call.func) == "fault_point"]
    return [ast.literal_eval(call.args[0]) for call in points]


def reach(**environment: str) -> int:
    return subprocess.run([sys.executable, "-c", _REACH], env=environment, check=False).returncode


def test_every_point_of_the_table_is_in_the_code_once():
    in_both_stores = ["blob:before-write", "publish:before-manifest"]  # of which a process uses one
    assert sorted(named_in_the_code()) == sorted([*POINTS, *in_both_stores])


def test_a_point_that_nobody_armed_costs_next_to_nothing():
    assert faults._armed is None
    assert min(timeit.repeat(lambda: fault_point("take:after-commit"), number=1000, repeat=5)) / 1000 < 2e-6


def test_a_process_dies_at_the_point_and_on_the_time_that_it_was_told(tmp_path: Path):
    seen = tmp_path / "seen"
    assert reach(HEADWAY_FAULTS="take:after-commit:2:kill", HEADWAY_FAULTS_SEEN=str(seen)) == -signal.SIGKILL
    assert seen.read_text().split() == ["take:after-commit"] * 2
    assert reach(HEADWAY_FAULTS="take:after-commit:4:kill") == 0


def test_a_plan_in_a_file_is_obeyed_by_one_process(tmp_path: Path):
    plan = tmp_path / "plan"
    plan.write_text("take:after-commit:1:kill")
    assert reach(HEADWAY_FAULTS=f"@{plan}") == -signal.SIGKILL
    assert (tmp_path / "plan.fired").exists()
    assert reach(HEADWAY_FAULTS=f"@{plan}") == 0


@pytest.mark.parametrize("spec", ["", "take:after-commit", "take:nowhere:1:kill", "take:after-commit:0:kill", "x:1:y"])
def test_an_unknown_point_or_action_is_an_error(spec: str):
    with pytest.raises(ValueError, match="known point"):
        Fault.parse(spec)


def test_a_plan_for_one_rank_is_obeyed_by_that_rank_alone(tmp_path: Path):
    plan = tmp_path / "plan"
    plan.write_text("take:after-commit@1:2:kill")
    assert reach(HEADWAY_FAULTS=f"@{plan}", RANK="0") == reach(HEADWAY_FAULTS=f"@{plan}") == 0
    assert reach(HEADWAY_FAULTS=f"@{plan}", RANK="1") == -signal.SIGKILL
    assert str(Fault.parse("take:after-commit@1:2:kill")) == "take:after-commit@1:2:kill"
