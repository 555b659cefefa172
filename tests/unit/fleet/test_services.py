from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.fleet.services import Services

SERVICE = {
    "metadata": {"name": "server"},
    "spec": {"selector": {"plane": "server"}, "ports": [{"port": 80, "targetPort": "http"}]},
}
HEADLESS = {
    "metadata": {"name": "group"},
    "spec": {
        "clusterIP": "None",
        "selector": {"plane": "trainer"},
        "publishNotReadyAddresses": True,
        "ports": [{"port": 29500}],
    },
}


def pod(address: str, *, ready: bool, plane: str = "server") -> Any:
    """As far as Services look at one."""
    containers = [{"ports": [{"name": "http", "containerPort": 8420}]}]
    host = SimpleNamespace(address=address)
    return SimpleNamespace(
        name=f"pod-{address}", host=host, labels={"plane": plane}, spec={"containers": containers}, is_ready=ready
    )


def test_new_connections_go_to_ready_pods_in_equal_shares():
    rules = Services([SERVICE], "headway").rules([pod("10.0.0.1", ready=True), pod("10.0.0.2", ready=True)])
    assert "-d 10.96.0.1/32 -p tcp --dport 80 -m statistic --mode random --probability 0.500000" in rules
    assert "--to-destination 10.0.0.1:8420" in rules
    assert "--dport 80 -j DNAT --to-destination 10.0.0.2:8420" in rules


def test_without_a_ready_pod_connections_are_refused():
    rules = Services([SERVICE], "headway").rules([pod("10.0.0.1", ready=False), pod("10.0.0.3", ready=True, plane="x")])
    assert "DNAT" not in rules
    assert "REJECT" in rules


def test_a_headless_service_names_its_pods_also_before_they_are_ready():
    services = Services([SERVICE, HEADLESS], "headway")
    names = services.names([pod("10.0.0.7", ready=False, plane="trainer")])
    assert "10.96.0.1 server server.headway server.headway.svc server.headway.svc.cluster.local" in names
    assert "10.0.0.7 group group.headway " in names
    assert "group" not in services.addresses
