"""What the chart repeats says what the original says."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sampler.backends.vllm import command
from sampler.backends.vllm.command import server_command, server_environment
from sampler.backends.vllm.parsers import Parsers
from sampler.backends.vllm.settings import VllmSettings
from tests.chart.pods import Pod, pods
from tests.chart.rendering import CHART, render
from tests.chart.tools import ROOT
from tests.chart.variables import FILE, text

BASE = "Qwen/Qwen3-8B"
HERE = {"--model", "--host", "--port", "--tensor-parallel-size"}
OF_GROUPS = {"--pipeline-parallel-size", "--nnodes", "--node-rank", "--master-addr", "--master-port", "--headless"}


def test_the_alert_rules_are_those_of_docker_monitoring():
    copy, original = CHART / "files" / "alerts.yml", ROOT / "docker" / "monitoring" / "alerts.yml"
    assert copy.read_text() == original.read_text(), f"cp {original.relative_to(ROOT)} {copy.relative_to(ROOT)}"


def test_the_variables_that_the_chart_takes_are_those_that_planes_read():
    assert FILE.read_text() == text(), "python -m tests.chart.variables"


def vllm(pod: Pod) -> dict[str, Any]:
    return next(container for container in pod.containers if container["name"] == "vllm")


def sampler_pods(**given: Any) -> list[Pod]:
    values = {"samplers": {"qwen3-8b": {"autoscaling": {"enabled": False}, **given}}}
    return [pod for pod in pods(render("spot-samplers", values=values)) if "sampler" in pod.owner]


def options(words: list[str]) -> dict[str, str]:
    """By their names; a switch has no value."""
    after = [*words[1:], "--"]
    return {
        word: "" if following.startswith("--") else following
        for word, following in zip(words, after, strict=True)
        if word.startswith("--")
    }


@pytest.mark.parametrize("nodes", [1, 2])
def test_vllm_in_a_container_of_its_own_is_started_as_a_sampler_would_start_it(nodes: int):
    started = options(server_command(Path(BASE), 8000, VllmSettings(python="python"), Parsers(None, None)))
    extension = options(["--worker-extension-cls", "worker_extension.WorkerExtension"])
    wanted = {name: value for name, value in (started | extension).items() if name not in HERE}
    for pod in sampler_pods(attached=True, nodes=nodes, adapterClaim="adapters"):
        given = options(vllm(pod)["args"])
        assert {name: value for name, value in given.items() if name not in HERE | OF_GROUPS} == wanted
        assert vllm(pod)["args"][:2] == ["serve", BASE]


@pytest.mark.parametrize(("pipeline", "of_a_layer", "stages"), [(True, "4", "2"), (False, "8", "1")])
def test_vllm_over_pods_takes_them_as_stages_or_as_ranks(pipeline: bool, of_a_layer: str, stages: str):
    for pod in sampler_pods(nodes=2, gpus=4, adapterClaim="adapters", pipeline=pipeline):
        given = options(vllm(pod)["args"])
        assert given["--tensor-parallel-size"] == of_a_layer
        assert given["--pipeline-parallel-size"] == stages


def test_vllm_in_a_container_of_its_own_has_the_environment_that_a_sampler_would_give_it():
    (pod,) = sampler_pods(attached=True)
    given = {variable["name"]: variable.get("value") for variable in vllm(pod)["env"]}
    ours = {name: value for name, value in server_environment(1).items() if name.startswith("VLLM_")}
    assert ours.items() <= given.items()
    folder = Path(command.__file__).parent.relative_to(ROOT)
    assert [path.partition("site-packages/")[2] for path in str(given["PYTHONPATH"]).split(":")] == [
        str(folder),
        str(folder / "plugin"),
    ]


def test_vllm_on_other_nodes_goes_on_while_the_sampler_of_its_group_drains():
    leader, worker = sampler_pods(nodes=2, adapterClaim="adapters", drainSeconds=60)
    (container,) = worker.containers
    with socket.create_server(("127.0.0.1", 0)) as listening:
        script = container["lifecycle"]["preStop"]["exec"]["command"][2]
        here = script.replace("8430", str(listening.getsockname()[1])).replace("sleep(1)", "sleep(0.01)")
        waiting = subprocess.Popen([sys.executable, "-c", here], env={"LWS_LEADER_ADDRESS": "127.0.0.1"})
        for _ in range(3):
            listening.accept()[0].close()
        assert waiting.poll() is None
    assert waiting.wait(timeout=60) == 0
    seconds = re.search(r"monotonic\(\) \+ (\d+)", script)
    assert seconds is not None
    assert (
        60
        < int(seconds[1])
        < worker.spec["terminationGracePeriodSeconds"]
        == leader.spec["terminationGracePeriodSeconds"]
    )
