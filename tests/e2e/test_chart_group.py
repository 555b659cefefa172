"""A trainer over two pods, by the very command lines that the chart gives them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from store.database import Database
from tests.chart.command_line import expanded
from tests.chart.pods import Pod, pods
from tests.chart.rendering import render
from tests.e2e.test_ranks import environment_of, free_port, ranks_of
from tests.e2e.trainer_site import SMALL_PASSES, STEP, Site, batch

BASE = {"bases": {"tiny": {"weights": "given-here"}}, "samplers": {"llama-3-3-70b": {"base": "tiny"}}}
GROUP = {"base": "tiny", "device": "cpu", "gpus": 1, "nodes": 2}


@pytest.fixture
def site(database: Database, postgres_url: str, tiny_base: Path, tmp_path: Path) -> Iterator[Site]:
    site = Site(database, postgres_url, tiny_base, tmp_path)
    yield site
    site.close()


def trainer_pods() -> list[Pod]:
    """The leader's and the worker's."""
    values: dict[str, Any] = {**BASE, "trainers": {"llama-3-3-70b": GROUP}}
    made = pods(render("several-nodes", values=values))
    return [pod for pod in made if pod.owner.startswith("LeaderWorkerSet/headway-trainer-")]


def started(site: Site, pod: Pod, index: int, port: int) -> subprocess.Popen[bytes]:
    """The pod's command here, on loopback."""
    (container,) = pod.spec["containers"]
    of_the_set = {"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": str(index), "LWS_LEADER_ADDRESS": "127.0.0.1"}
    words = expanded(container["args"], of_the_set)
    here = {"29400": str(port), "9420": "0", "0.0.0.0": "127.0.0.1"}
    assert container["command"] == ["torchrun"]
    assert {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"} <= {variable["name"] for variable in container["env"]}
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "HEADWAY_METRICS_TOKEN": "of-a-scrape"}
    command = [sys.executable, "-m", "torch.distributed.run", *(here.get(word, word) for word in words)]
    return site.launch_as(command, environment, *SMALL_PASSES)


@pytest.mark.slow
def test_the_pods_of_a_group_make_one_trainer_whose_first_rank_is_in_the_leader(site: Site):
    leader, worker = trainer_pods()
    port = free_port()
    hosts = [started(site, worker, 1, port), started(site, leader, 0, port)]  # the leader comes last
    site.until(lambda: site.num_ready() == 1)
    of_rank = {int(environment_of(pid)["RANK"]): host for host in hosts for pid in ranks_of(host)}
    assert of_rank == {0: hosts[1], 1: hosts[0]}, "probes and scrapes ask the leader"
    site.until(lambda: site.log().count('"event": "metrics"') == 1)
    site.ask(site.models[0], "forward_backward", batch(8))
    step = site.ask(site.models[0], "optim_step", STEP)
    site.until(lambda: site.is_done(step))
    for host in hosts:
        host.terminate()
    for host in hosts:
        host.wait(30)
    assert site.num_ready() == 0
    assert '"event": "rank_failed"' not in site.log()
