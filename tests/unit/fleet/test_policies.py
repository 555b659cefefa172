from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.fleet.policies import Policies


def pod(plane: str, number: int) -> Any:
    """As far as policies look at one."""
    ports = [{"name": "http", "containerPort": 8000 + number}]
    host = SimpleNamespace(address=f"10.0.0.{number}")
    return SimpleNamespace(host=host, labels={"plane": plane}, spec={"containers": [{"ports": ports}]})


SERVER, SAMPLER, RUNNER = pod("server", 1), pod("sampler", 2), pod("runner", 3)
PODS = [SERVER, SAMPLER, RUNNER]


def to(plane: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"plane": plane}}}


def rules(of: Any, *specs: dict[str, Any]) -> list[str]:
    said = Policies([{"spec": spec} for spec in specs], "headway").rules(of, PODS)
    return [line for line in said.splitlines() if line.startswith("-A")]


def test_a_pod_that_no_policy_selects_reaches_everything():
    assert rules(RUNNER, {"podSelector": to("server")["podSelector"], "policyTypes": ["Ingress", "Egress"]}) == []


def test_what_one_policy_denies_another_may_allow():
    deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    allow = {**to("runner"), "policyTypes": ["Egress"], "egress": [{"to": [to("server")], "ports": [{"port": 8420}]}]}
    said = rules(RUNNER, deny, allow)
    assert said[-3:] == [
        "-A FLEET-OUT -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN",
        "-A FLEET-OUT -d 10.0.0.1 -p tcp --dport 8420 -j RETURN",
        "-A FLEET-OUT -j DROP",
    ]
    assert "-A FLEET-IN -j DROP" in said


def test_a_named_port_is_that_of_the_pod_which_is_connected_to():
    spec = {"ports": [{"port": "http"}]}
    ingress = rules(SERVER, {**to("server"), "policyTypes": ["Ingress"], "ingress": [{"from": [to("runner")], **spec}]})
    assert "-A FLEET-IN -s 10.0.0.3 -p tcp --dport 8001 -j RETURN" in ingress
    egress = rules(SERVER, {**to("server"), "policyTypes": ["Egress"], "egress": [{"to": [to("sampler")], **spec}]})
    assert "-A FLEET-OUT -d 10.0.0.2 -p tcp --dport 8002 -j RETURN" in egress


def test_blocks_of_addresses_hold_without_their_exceptions():
    block = {"ipBlock": {"cidr": "10.1.0.0/30", "except": ["10.1.0.0/31"]}}
    said = rules(RUNNER, {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [block]}]})
    assert [line for line in said if "10.1" in line] == ["-A FLEET-OUT -d 10.1.0.2/31 -j RETURN"]


def test_pods_of_other_namespaces_are_nobody_here():
    system = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    said = rules(RUNNER, {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [system]}]})
    assert not [line for line in said if "-d" in line]


def test_selectors_that_are_not_understood_are_refused():
    selector = {"matchExpressions": [{"key": "plane", "operator": "Exists"}]}
    with pytest.raises(ValueError, match="expressions"):
        rules(RUNNER, {"podSelector": selector, "policyTypes": ["Egress"]})
