"""Init containers that go on beside a pod's own, as Kubernetes has them: they start before what needs them, and end
after it."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.fleet.network import Network
from tests.fleet.pods import Fleet
from tests.fleet.test_pods import deployment

pytestmark = pytest.mark.fleet

SIDECAR = """
import pathlib, signal, sys, time
def end(*_):
    hook = pathlib.Path("/data/hook")  # of the program, which it leaves behind
    print("ending after the program's hook:", hook.exists(), flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
time.sleep(1)
pathlib.Path("/data/sidecar").touch()
time.sleep(600)
"""
NEEDS_IT = "import pathlib; print('there is one:', pathlib.Path('/data/sidecar').exists())"


def accompanied() -> dict[str, Any]:
    """One pod with a sidecar, and an init container behind it that looks for what it has made."""
    made = deployment()
    made["spec"]["replicas"] = 1
    spec = made["spec"]["template"]["spec"]
    shared = {key: spec["containers"][0][key] for key in ("image", "volumeMounts", "securityContext")}
    started = {"exec": {"command": ["test", "-e", "/data/sidecar"]}, "periodSeconds": 0.2, "failureThreshold": 300}
    spec["initContainers"] = [
        {
            **shared,
            "name": "sidecar",
            "command": ["python", "-c", SIDECAR],
            "restartPolicy": "Always",
            "startupProbe": started,
        },
        {**shared, "name": "needs-it", "command": ["python", "-c", NEEDS_IT]},
    ]
    return made


def test_a_sidecar_starts_first_is_started_again_and_ends_last(network: Network):
    with Fleet(network, [accompanied()], secrets={"token": {"token": "first"}}) as fleet:
        fleet.install()
        fleet.wait_until_ready(60)
        [pod] = fleet.pods("program")
        assert "there is one: True" in (pod.folder / "needs-it.log").read_text()
        [sidecar], [program] = pod.sidecars, pod.runs
        assert sidecar.container is not None
        sidecar.container.signal(signal.SIGKILL)
        fleet.wait_until(lambda: sidecar.restarts == 1 and sidecar.has_started, 30)
        fleet.wait_until_ready(30)
        assert program.restarts == 0
        pod.delete()
        assert pod.ended.wait(30)
        assert "ending after the program's hook: True" in (pod.folder / "sidecar.log").read_text()
        assert (sidecar.status, program.status, sidecar.was_killed) == (0, 0, False)
