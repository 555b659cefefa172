"""The recipes of deploy/ for dstack, SkyPilot and Slurm: their scripts run here, with stand-ins for the programs that
they start, and `headway` itself parses what it would have been given."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.command_line import STAND_INS, Parsed, parsed, variables, words_of
from tests.chart.secrets import NAMES, looks_like
from tests.chart.tools import ROOT

DSTACK = sorted((ROOT / "deploy" / "dstack").glob("[!f]*.dstack.yml"))
SKYPILOT = sorted((ROOT / "deploy" / "skypilot").glob("*.yaml"))
SLURM = sorted((ROOT / "deploy" / "slurm").glob("*.sbatch"))
RECIPES = [*DSTACK, *SKYPILOT, *SLURM]
PLANES = {"server", "trainer", "sampler", "runner"}
ON_SPOT = {"sampler", "runner"}

DSTACK_KEYS = {
    *("type", "name", "image", "port", "auth", "replicas", "commands", "probes", "env", "resources"),
    *("spot_policy", "fleets", "max_duration", "stop_duration", "retry"),
}
SKYPILOT_KEYS = {"name", "num_nodes", "resources", "service", "workdir", "envs", "secrets", "setup", "run"}
SKYPILOT_RESOURCES = {
    *("infra", "accelerators", "any_of", "cpus", "memory", "disk_size", "ports", "use_spot", "job_recovery"),
}
"""What recipes use of what dstack 0.22.5 and SkyPilot 1.0 take."""

GIVEN = {
    "DSTACK_GPUS_NUM": "4",
    "SKYPILOT_NODE_IPS": "10.0.0.2\n10.0.0.3",
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    "SKYPILOT_TASK_ID": "sky-1",
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_CPUS_PER_TASK": "2",
}
SECRETS = {"HEADWAY_RUNNER_KEY": "key", "HEADWAY_SAMPLER_TOKEN": "token", **STAND_INS}
RECORDING = """#!/bin/sh
printf '%s\\0' "$0" "$@" > "$RECORDS/$$.words"
env -0 > "$RECORDS/$$.environment"
[ "$1" = migrate ] || exit "${STATUS:-0}"
"""
STAND_IN_PROGRAMS = {
    "headway": RECORDING,
    "torchrun": RECORDING,
    "srun": '#!/bin/sh\ntouch "$RECORDS/srun"\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n',
    "scontrol": '#!/bin/sh\n[ "$1" = show ] && printf "node1\\nnode2\\n" || echo "$2" > "$RECORDS/$1"\n',
    "hostname": '#!/bin/sh\n[ "$1" = -f ] && echo 10.0.0.4 || echo 10.0.0.4 172.17.0.1\n',
}


@dataclass(frozen=True)
class Started:
    """A program that a recipe's script started, with the variables that it got."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def command(self) -> Parsed:
        words = words_of(self.words)
        assert words is not None, self.words
        return parsed(words, self.environment)


def recipe(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def environment_of(path: Path) -> dict[str, str]:
    """The variables that a recipe sets itself."""
    if path in DSTACK:
        return dict(entry.split("=", 1) for entry in recipe(path)["env"])
    if path in SKYPILOT:
        return {name: str(value) for name, value in recipe(path)["envs"].items()}
    return {}


def secrets_of(path: Path) -> set[str]:
    """The variables whose values the recipe does not hold."""
    if path in DSTACK:
        return {
            name for name, value in environment_of(path).items() if re.fullmatch(r"\$\{\{ secrets\.\w+ \}\}", value)
        }
    return set(recipe(path)["secrets"]) if path in SKYPILOT else set()


def script_of(path: Path) -> str:
    if path in DSTACK:
        return "set -e\n" + "\n".join(recipe(path)["commands"])
    return recipe(path)["run"] if path in SKYPILOT else path.read_text()


def started(path: Path, folder: Path, **more: str) -> list[Started]:
    """What the recipe's script starts, in turn, with a home in `folder`."""
    _install(folder)
    own = {name: value for name, value in environment_of(path).items() if name not in secrets_of(path)}
    secrets = {name: SECRETS.get(name, "secret") for name in secrets_of(path)}
    records = folder / "records"
    environment = {**GIVEN, **own, **secrets, **more, "HOME": str(folder), "RECORDS": str(records)}
    environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", script_of(path)], env=environment, cwd=folder, check=True, timeout=60)
    return [_read(file) for file in sorted(records.glob("*.words"), key=lambda file: file.stat().st_mtime_ns)]


def _install(folder: Path) -> None:
    for place in (folder / "bin", folder / "headway" / "bin", folder / "records"):
        place.mkdir(parents=True, exist_ok=True)
    for place in (folder / "bin", folder / "headway" / "bin"):
        for name, text in STAND_IN_PROGRAMS.items():
            (place / name).write_text(text)
            (place / name).chmod(0o755)
    example = (ROOT / "deploy" / "slurm" / "headway.env.example").read_text()
    (folder / "headway.env").write_text(re.sub(r"(\w+(?:TOKEN|KEY\w*))=$", r"\1=secret", example, flags=re.MULTILINE))
    (folder / "headway-runner.env").write_text("HEADWAY_SERVER_URL=http://server:8420\nHEADWAY_RUNNER_KEY=key\n")


def _read(words: Path) -> Started:
    variables_ = words.with_suffix(".environment").read_bytes().decode().split("\0")
    return Started(words.read_bytes().decode().split("\0")[:-1], dict(v.split("=", 1) for v in variables_ if v))


def plane_of(path: Path) -> str:
    name = path.name.split(".")[0].removesuffix("s")
    assert name in PLANES
    return name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_recipe_starts_its_plane_with_a_command_line_that_headway_takes(path: Path, tmp_path: Path):
    commands = [one.command for one in started(path, tmp_path)]
    assert [one.command for one in commands] == (["migrate"] if plane_of(path) == "server" else []) + [plane_of(path)]
    given = commands[-1].given
    if plane_of(path) in ON_SPOT:
        address = given.get("advertise") or given["advertise_url"]
        assert re.fullmatch(rf"(http|ws)://10\.0\.0\.[24]:{given['port']}", address), address


def test_a_recipe_whose_option_does_not_exist_would_be_noticed(tmp_path: Path):
    broken = Started(["headway", "runner", "--slot", "3"], {"HEADWAY_SERVER_URL": "http://server:8420"})
    with pytest.raises(ValueError, match="(?i)no such option"):
        assert broken.command


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_variable_of_a_recipe_is_read(path: Path):
    commands = {plane_of(path), *(["migrate"] if plane_of(path) == "server" else [])}
    read = {name for command in commands for name in variables(command)} | {"HEADWAY_BASE", "HEADWAY_BASE_WEIGHTS"}
    named = {name for name in (environment_of(path) | dict.fromkeys(secrets_of(path))) if name.startswith("HEADWAY_")}
    assert named <= read


@pytest.mark.parametrize("path", [*DSTACK, *SKYPILOT], ids=lambda path: f"{path.parent.name}-{path.name}")
def test_no_recipe_holds_a_secret(path: Path):
    for name, value in environment_of(path).items():
        assert name in secrets_of(path) or not NAMES.search(name), f"{name} is a secret"
        assert name in secrets_of(path) or not list(looks_like(value))
    assert plane_of(path) != "runner" or secrets_of(path) == {"HEADWAY_RUNNER_KEY"}


@pytest.mark.parametrize("path", [*DSTACK, *SKYPILOT], ids=lambda path: f"{path.parent.name}-{path.name}")
def test_samplers_and_runners_are_on_spot_and_the_others_are_not(path: Path):
    document = recipe(path)
    on_spot = document["spot_policy"] == "spot" if path in DSTACK else document["resources"]["use_spot"]
    assert on_spot is (plane_of(path) in ON_SPOT)


def test_recipes_name_what_their_tools_know():
    for path in DSTACK:
        assert set(recipe(path)) <= DSTACK_KEYS
    for path in SKYPILOT:
        assert set(recipe(path)) <= SKYPILOT_KEYS
        assert set(recipe(path)["resources"]) <= SKYPILOT_RESOURCES


@pytest.mark.parametrize("tool", ["dstack", "skypilot", "slurm"])
def test_every_tool_has_a_recipe_of_every_plane(tool: str):
    assert {plane_of(path) for path in RECIPES if path.parent.name == tool} == PLANES


def test_a_trainer_of_one_node_and_of_several_are_both_started(tmp_path: Path):
    path = next(path for path in SKYPILOT if plane_of(path) == "trainer")
    (one,) = started(path, tmp_path / "one", SKYPILOT_NUM_NODES="1")
    (several,) = started(path, tmp_path / "several")
    assert one.command.given["gpus"] == 8
    assert several.words[0].endswith("torchrun")


def _slurm_options() -> Iterator[tuple[Path, str]]:
    for path in SLURM:
        yield from ((path, line) for line in path.read_text().splitlines() if line.startswith("#SBATCH"))


@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize("path", SLURM, ids=lambda path: path.name)
def test_jobs_of_slurm_get_a_signal_in_time_and_are_queued_again(path: Path, status: int, tmp_path: Path):
    options = " ".join(line for of, line in _slurm_options() if of == path)
    assert "--requeue" in options
    assert "--signal=TERM@60" in options, "to steps: without it a preempted job's script is not sent one"
    started(path, tmp_path, STATUS=str(status))
    assert (tmp_path / "records" / "srun").exists()
    assert (tmp_path / "records" / "requeue").read_text() == "17\n"
