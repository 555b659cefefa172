"""The page for those who begin, and the script that does all of it with HUD's own commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "getting-started.md"
BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def demo_box(tiny_base: Path) -> Iterator[Box]:
    """A box with the settings of `make demo-run`."""
    with database_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWAY_RUN_DEFAULTS", str(ROOT / "examples" / "run_defaults.json"))
        box = Box(folder / "data", tiny_base, "--seed", "0").start()
        yield box
        assert box.stop() == 0


def commands() -> list[str]:
    """Of HUD's clients, as the page's workflow gives them, up to the section about the folder."""
    workflow = PAGE.read_text().partition("## The workflow")[2].partition("## What is in the folder")[0]
    lines = [line for block in BLOCK.findall(workflow) for line in block.splitlines()]
    return [line.removeprefix("../../.venv-hud-rl/bin/") for line in lines if "hud " in line]


def test_the_workflow_of_the_page_makes_the_reward_climb(demo_box: Box):
    environment = {**os.environ, **demo_box.env, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "examples.demo_run"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1700)
    assert done.returncode == 0, done.stdout + done.stderr
    run = [line.removeprefix("$ ").removesuffix(" --yes") for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert run == [command.removesuffix(" --yes") for command in commands()]
