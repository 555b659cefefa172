"""`hud deploy` and what follows it, by the unmodified SDK: versions, links, tasksets, and rollouts through tunnels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.box import Box
from tests.e2e.deployed import SUMS
from tests.e2e.hud_command import run_hud
from tests.e2e.hud_rl_command import run_hud_rl

PICTURES = Path(__file__).parent / "pictures"
TASKS = """
from env import look
tasks = [look(size=size) for size in (10, 6_000_000)]
"""


@pytest.fixture(scope="module")
def folder(box: Box, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment's folder, deployed once, with a secret."""
    folder = tmp_path_factory.mktemp("deploy") / "pictures"
    shutil.copytree(PICTURES, folder)
    (folder / "tasks.py").write_text(TASKS)
    deployed = run_hud("deploy", str(folder), "--yes", "-e", "GREETING=hello", cwd=folder)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert "SUCCEEDED" in deployed.stderr
    assert "look, die" in deployed.stderr
    return folder


def registered(box: Box, name: str) -> dict[str, str]:
    (found,) = box.call("GET", f"/v2/registry?search={name}&limit=500")["items"]
    return found


@pytest.mark.slow
def test_a_deployment_links_its_folder_and_the_next_is_version_two(box: Box, folder: Path):
    first = registered(box, "test-pictures")
    assert json.loads((folder / ".hud" / "config.json").read_text())["registry_id"] == first["id"]
    again = run_hud("deploy", ".", "--yes", "--json", cwd=folder)
    assert again.returncode == 0, again.stderr
    details = json.loads(again.stdout)["details"]
    assert (details["version"], details["registry_id"]) == (str(int(first["latest_version"]) + 1), first["id"])
    assert "hello" not in again.stdout


@pytest.mark.slow
def test_code_that_does_not_import_fails_with_its_last_line_and_the_version_before_serves_on(
    box: Box, folder: Path, tmp_path: Path
):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken, ignore=shutil.ignore_patterns(".hud"))
    with (broken / "env.py").open("a") as file:
        file.write("\nimport a_module_that_nobody_has\n")
    before = registered(box, "test-pictures")["latest_version"]
    failed = run_hud("deploy", ".", "--yes", cwd=broken)
    assert failed.returncode == 1
    assert "No module named 'a_module_that_nobody_has'" in failed.stdout + failed.stderr
    assert registered(box, "test-pictures")["latest_version"] == before


def test_environments_and_projects_are_found_by_the_cli(box: Box, folder: Path, tmp_path: Path):
    linked = run_hud("sync", "env", "Test_Pictures", str(tmp_path), "--yes")
    assert linked.returncode == 0, linked.stderr
    link = json.loads((tmp_path / ".hud" / "config.json").read_text())
    assert link["registry_id"] == registered(box, "test-pictures")["id"]
    missing = run_hud("sync", "env", "nobodys-env", str(tmp_path), "--yes")
    assert missing.returncode != 0
    assert "No environment named" in missing.stdout + missing.stderr
    projects = run_hud("project", "list", "--quiet", cwd=tmp_path)
    assert projects.stdout.split() == [box.call("GET", "/v2/auth/me")["team_id"]]
    assert run_hud("project", "create", "another", "--yes", cwd=tmp_path).returncode != 0


def test_tasks_that_the_environment_does_not_have_are_not_uploaded(box: Box, folder: Path, tmp_path: Path):
    wrong = [{"env": "Test_Pictures", "id": "look", "args": {"size": "large"}, "slug": "wrong-one"}]
    (tmp_path / "tasks.json").write_text(json.dumps(wrong))
    refused = run_hud("sync", "tasks", "wrong-pictures", "tasks.json", "--yes", cwd=tmp_path)
    assert refused.returncode != 0
    assert "wrong-one" in refused.stdout + refused.stderr
    assert "args.size must be integer" in refused.stdout + refused.stderr


async def test_rollouts_of_a_taskset_go_through_tunnels_by_themselves(box: Box, folder: Path):
    synced = run_hud("sync", "tasks", "pictures", "tasks.py", "--yes", cwd=folder)
    assert synced.returncode == 0, synced.stderr
    from hud import Taskset
    from hud.agents.base import Agent

    class Looks(Agent):
        """Calls the tool, and answers with the size of what came back."""

        async def __call__(self, run):
            client = await run.client.open("tools")
            size = int(run.prompt_text.split()[-1].rstrip("?"))
            reply = await client.call_tool("picture", {"size": size})
            run.trace.content = f"{len(reply.content[0].text)} hello"

    job = await Taskset.from_api("pictures").run(Looks(), group=2)
    assert [run.reward for run in job.runs] == [1.0] * 4, [run.trace for run in job.runs]


@pytest.mark.slow
async def test_an_environment_that_ends_in_the_middle_is_an_error_of_its_run_alone(box: Box, folder: Path):
    from hud import HUDRuntime, Task, Taskset
    from hud.agents.base import Agent

    class Answers(Agent):
        async def __call__(self, run):
            run.trace.content = "10 hello"

    tasks = [Task(env="Test_Pictures", id="die"), Task(env="Test_Pictures", id="look", args={"size": 10})]
    job = await Taskset("mixed", tasks).run(Answers(), runtime=HUDRuntime())
    died, lived = job.runs
    assert died.trace.is_error
    assert (lived.reward, lived.trace.is_error) == (1.0, False)


async def test_an_environment_that_is_not_deployed_fails_at_once(box: Box, folder: Path):
    from hud import HUDRuntime, Task, Taskset
    from hud.agents.base import Agent

    class Never(Agent):
        async def __call__(self, run):
            raise AssertionError

    job = await Taskset("none", [Task(env="nobodys-env", id="look")]).run(Never(), runtime=HUDRuntime())
    assert "404" in str(job.runs[0].trace.error)


@pytest.mark.slow
def test_an_operator_adds_a_folder_for_everybody_and_removes_it(box: Box):
    def envs(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", "envs", *args, "--data-dir", str(box.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    whose = envs("add", "Test_Sums", str(SUMS))
    assert (whose.returncode, "--team TEAM or --everybody" in whose.stderr) == (1, True)
    added = envs("add", "Test_Sums", str(SUMS), "--everybody", "-e", "LEVEL=sesame")
    assert added.returncode == 0, added.stderr
    assert "test-sums\t(everybody)\t" in envs("list").stdout
    shown = json.loads(envs("show", "test_sums", "--everybody").stdout)
    assert (shown["variables"], shown["team"], shown["serving"]) == (["LEVEL"], None, 1)
    assert [task["id"] for task in shown["manifest"]["tasks"]] == ["add", "die"]
    assert "serving env.py" in envs("logs", "test-sums", "--everybody").stdout
    assert envs("remove", "test-sums", "--everybody").stdout == "removed test-sums\n"
    assert envs("show", "test-sums", "--everybody").returncode == 1


@pytest.mark.slow
def test_the_client_of_0_5_41_deploys_and_deploys_again(box: Box, tmp_path: Path):
    folder = tmp_path / "old-client"
    shutil.copytree(SUMS, folder)
    source = (folder / "env.py").read_text().replace("Test_Sums", "old-client")
    (folder / "env.py").write_text(source)
    (folder / "Dockerfile.hud").write_text('FROM python:3.11\nCOPY . .\nCMD ["hud", "serve", "env.py"]\n')
    for version in ("1", "2"):
        deployed = run_hud_rl(box, folder, "deploy", ".", "--name", "old-client", "--no-env")
        said = deployed.stdout + deployed.stderr
        assert deployed.returncode == 0, said
        assert "serving env.py" in said
        assert registered(box, "old-client")["latest_version"] == version
