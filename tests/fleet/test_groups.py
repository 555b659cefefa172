"""Groups of pods: what LeaderWorkerSets promise, and the chart's trainer over two pods, which trains a step."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.chaos.client import PatientClient
from tests.chaos.program import Progress, forward_backward, optim_step, sampled
from tests.fleet.commands import missing
from tests.fleet.installation import SERVER, Installation, installation
from tests.fleet.network import Network
from tests.fleet.pod import Pod
from tests.fleet.pods import Fleet
from tests.fleet.test_pods import deployment

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]

GROUP = "llama-3-3-70b"  # of the profile, on a CPU here, with the base that fits
SMALL = {
    "bases": {"llama-3.3-70b": None, "tiny-arith": {"weights": "/models/tiny-arith"}},
    "models": {"huggingFaceSecret": "", "readOnly": True},
    "server": {"replicas": 1, "autoscaling": {"enabled": False}},
    "trainers": {GROUP: {"base": "tiny-arith", "device": "cpu", "gpus": 1, "threads": 1}},
    "samplers": {GROUP: None},
    "runners": {"default": None},
    "monitoring": {"enabled": False},
}


def group_of_programs() -> dict[str, Any]:
    """A leader and two workers."""
    template = deployment()["spec"]["template"]
    set_of = {"size": 3, "restartPolicy": "RecreateGroupOnPodRestart", "workerTemplate": template}
    return {"kind": "LeaderWorkerSet", "metadata": {"name": "set"}, "spec": {"leaderWorkerTemplate": set_of}}


def variables(pod: Pod) -> dict[str, str]:
    container = pod.runs[0].container
    assert container is not None
    return {name: value for name, value in container.env.items() if name.startswith("LWS_")}


def address_of_the_leader(pod: Pod) -> str:
    """As the pod finds it."""
    container = pod.runs[0].container
    assert container is not None
    find = "import os, socket; print(socket.gethostbyname(os.environ['LWS_LEADER_ADDRESS']))"
    return container.execute(["python", "-c", find], 20).stdout.strip()


def test_the_pods_of_a_group_know_their_place_find_their_leader_and_are_made_anew_together(network: Network):
    with Fleet(network, [group_of_programs()], secrets={"token": {"token": "first"}}) as fleet:
        fleet.install()
        fleet.wait_until_ready(60)
        before = fleet.pods("set")
        assert [pod.name for pod in before] == ["set-0", "set-0-1", "set-0-2"]
        for index, pod in enumerate(before):
            size, leader = {"LWS_GROUP_SIZE": "3"}, {"LWS_LEADER_ADDRESS": "set-0.set.headway"}
            assert variables(pod) == {**size, **leader, "LWS_WORKER_INDEX": str(index)}
            assert address_of_the_leader(pod) == before[0].host.address
        last = before[2].runs[0].container
        assert last is not None
        last.signal(signal.SIGKILL)
        fleet.wait_until(lambda: all(pod.ended.is_set() for pod in before), 60)
        fleet.wait_until_ready(60)
        after = fleet.pods("set")
        assert [pod.name for pod in after] == ["set-0", "set-0-1", "set-0-2"]
        assert address_of_the_leader(after[2]) == after[0].host.address


def drawn_group() -> Sequence[dict[str, Any]]:
    """Four trajectories of one prompt."""
    draw = np.random.default_rng(0)
    sample = {"prompt_token_ids": [1, 2, 3, 4, 5]}
    return [{"samples": [{**sample, **sampled(draw, 270)}], "reward": float(n)} for n in range(4)]


def trained_step(headway: Installation) -> Progress:
    """Of a new fork."""
    progress, origin = Progress(), f"http://{headway.fleet.address(SERVER)}"
    with headway.client.inside():
        client = PatientClient(lambda: origin, {"Authorization": f"Bearer {headway.key}"})
        [base] = client.expect("GET", "/v2/models")["items"]
        fork = client.expect("POST", "/v2/models/fork", {"source_model_id": base["id"], "name": "fork"})
        for call in (forward_backward(drawn_group(), 4), optim_step(1e-3)):
            call(client, fork["id"], "fork", progress)
        client.close()
    return progress


def test_the_charts_trainer_over_two_pods_trains_a_step(tmp_path: Path):
    lacks = missing()
    assert not lacks, f"simulated hosts need: {'; '.join(lacks)}"
    with Network() as network, installation(network, tmp_path, SMALL, profile="several-nodes") as headway:
        leader, worker = headway.fleet.pods(component="trainer")
        progress = trained_step(headway)
        assert [(what, status) for what, status, _ in progress.answers] == [
            ("forward-backward", 200),
            ("optim-step", 200),
        ]
        assert len(progress.checkpoints) == 1
        assert '"ranks": 2' in leader.log()
        assert '"event": "rank_ready"' in worker.log()
        leader.delete()
        assert leader.ended.wait(60)
        assert worker.ended.wait(60)
        assert not any(run.was_killed for pod in (leader, worker) for run in pod.runs), leader.log() + worker.log()
