"""What the harness promises to tests that run pods: a small program in place of Headway, in seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.fleet.network import Network
from tests.fleet.pods import Fleet

pytestmark = pytest.mark.fleet

PROGRAM = """
import http.server, os, pathlib, signal, socket, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = {"/name": socket.gethostname(), "/token": pathlib.Path("/etc/token/token").read_text()}
        broken = pathlib.Path("/data/broken").exists() and self.path == "/alive"
        self.send_response(500 if broken else 200)
        self.end_headers()
        self.wfile.write(said.get(self.path, "").encode())
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("0.0.0.0", 80 if os.getuid() == 0 else 8080), Handler)
def end(*_):
    if os.environ["ENDS"] == "yes":
        print("ending after", pathlib.Path("/data/hook").exists() and "its hook", flush=True)
        threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, end)
server.serve_forever()
"""


def deployment(**changes: Any) -> dict[str, Any]:
    """Two pods; a liveness probe that fails soon."""
    container = {
        "name": "program",
        "image": "headway-server:test",
        "command": ["python", "-c", PROGRAM],
        "env": [{"name": "ENDS", "value": changes.get("ends", "yes")}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "startupProbe": {"httpGet": {"path": "/name", "port": "http"}, "periodSeconds": 0.2, "failureThreshold": 300},
        "livenessProbe": {
            "httpGet": {"path": "/alive", "port": "http"},
            "periodSeconds": 0.2,
            "timeoutSeconds": 5,
            "failureThreshold": 2,
        },
        "readinessProbe": {"httpGet": {"path": "/name", "port": "http"}, "periodSeconds": 0.2},
        "lifecycle": {"preStop": {"exec": {"command": ["touch", "/data/hook"]}}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "token", "mountPath": "/etc/token"}],
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False},
    }
    spec = {
        "terminationGracePeriodSeconds": changes.get("grace_s", 20),
        "securityContext": {"fsGroup": 10001},
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "token", "secret": {"secretName": "token"}}],
    }
    template = {"metadata": {"labels": {"app.kubernetes.io/component": "program"}}, "spec": spec}
    return {"kind": "Deployment", "metadata": {"name": "program"}, "spec": {"replicas": 2, "template": template}}


SERVICE = {
    "kind": "Service",
    "metadata": {"name": "program"},
    "spec": {
        "selector": {"app.kubernetes.io/component": "program"},
        "ports": [{"port": 80, "targetPort": "http"}],
    },
}


@contextmanager
def running(network: Network, **changes: Any) -> Iterator[Fleet]:
    with Fleet(network, [deployment(**changes), SERVICE], secrets={"token": {"token": "first"}}) as fleet:
        fleet.install()
        fleet.attach(network.host("client"))
        fleet.wait_until_ready(60)
        yield fleet


def get(network: Network, address: str, path: str) -> str:
    with network.host("client").inside():
        opened = build_opener(ProxyHandler({})).open(f"http://{address}{path}", timeout=5)
        return opened.read().decode()


def answering(network: Network, fleet: Fleet, times: int = 20) -> set[str]:
    """Names of the pods that a Service has led to."""
    return {get(network, fleet.address("program"), "/name") for _ in range(times)}


def test_a_service_leads_to_ready_pods_and_a_deleted_one_ends_behind_its_hook(network: Network):
    with running(network) as fleet:
        first, second = fleet.pods("program")
        assert answering(network, fleet) == {first.name, second.name}
        first.delete()
        fleet.wait_until_ready(60)
        assert first.ended.wait(20)
        assert "ending after its hook" in first.log()
        assert not first.runs[0].was_killed
        [replacement] = [pod for pod in fleet.pods("program") if pod is not second]
        assert answering(network, fleet) == {second.name, replacement.name}


def test_what_does_not_end_within_its_grace_is_killed(network: Network):
    with running(network, ends="no", grace_s=1) as fleet:
        [pod, _] = fleet.pods("program")
        pod.delete()
        assert pod.ended.wait(20)
        assert pod.runs[0].was_killed


def test_a_container_whose_liveness_fails_is_started_again_in_its_pod(network: Network):
    with running(network) as fleet:
        [pod, _] = fleet.pods("program")
        container = pod.runs[0].container
        assert container is not None
        container.execute(["touch", "/data/broken"], 10)
        fleet.wait_until(lambda: pod.runs[0].restarts == 1, 20)
        assert (pod.folder / "volumes" / "data" / "broken").exists(), "an empty folder lives as long as its pod"
        (pod.folder / "volumes" / "data" / "broken").unlink()


def test_pods_wait_for_a_secret_and_see_when_it_is_replaced(network: Network):
    with Fleet(network, [deployment(), SERVICE]) as fleet:
        fleet.install()
        fleet.attach(network.host("client"))
        fleet.wait_until(lambda: len([pod for pod in fleet.pods() if pod.waits_for]) == 2, 20)
        with pytest.raises((URLError, ConnectionError)):
            get(network, fleet.address("program"), "/token")
        fleet.put_secret("token", {"token": "first"})
        fleet.wait_until_ready(60)
        assert get(network, fleet.address("program"), "/token") == "first"
        fleet.put_secret("token", {"token": "second"})
        assert get(network, fleet.address("program"), "/token") == "second"


def test_a_pod_whose_host_vanished_is_replaced_when_that_is_noticed(network: Network):
    with running(network) as fleet:
        lost, other = fleet.pods("program")
        fleet.vanish(lost, noticed_after_s=3)
        time.sleep(1)
        assert lost in fleet.pods("program")
        assert len(fleet.pods("program")) == 2
        fleet.wait_until(lost.ended.is_set, 20)
        fleet.wait_until_ready(60)
        [replacement] = [pod for pod in fleet.pods("program") if pod is not other]
        assert answering(network, fleet) == {other.name, replacement.name}
