"""Services of Kubernetes on simulated hosts: names, cluster addresses, and which pods new connections go to.

As kube-proxy does it in its iptables mode: every host rewrites the destination of a new connection to a cluster
address, at random among the ready pods, so a pod sees who it really was, and a connection stays with its pod.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.fleet.network import Host
from tests.fleet.pod import Pod

_SUBNET = "10.96.0"
_CHAIN = "FLEET-SERVICES"
_HEADLESS = "None"


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


class Services:
    """`addresses`: cluster address by name, of those that have one."""

    def __init__(self, services: Iterable[Mapping[str, Any]], namespace: str) -> None:
        self._services = {service["metadata"]["name"]: service for service in services}
        self._namespace = namespace
        having = [name for name, service in self._services.items() if service["spec"].get("clusterIP") != _HEADLESS]
        self.addresses = {name: f"{_SUBNET}.{number}" for number, name in enumerate(sorted(having), 1)}

    def lead(self, host: Host) -> None:
        """Packets of this host to cluster addresses find their way. Once, before it connects to any."""
        inside(host, "ip", "route", "add", f"{_SUBNET}.0/24", "dev", "eth0", "src", host.address)
        hooks = (f"*{table}\n:{_CHAIN} -\n-A OUTPUT -j {_CHAIN}\nCOMMIT\n" for table in ("nat", "filter"))
        inside(host, "iptables-restore", "-w", "--noflush", given="".join(hooks))

    def rules(self, pods: Sequence[Pod]) -> str:
        """For iptables-restore. A Service without a ready pod refuses connections at once."""
        nat, refused = [], []
        for address, port, targets in self._backends(pods):
            where = f"-A {_CHAIN} -d {address}/32 -p tcp --dport {port}"
            for number, target in enumerate(targets):
                share = 1 / (len(targets) - number)
                chance = f" -m statistic --mode random --probability {share:.6f}" if share < 1 else ""
                nat.append(f"{where}{chance} -j DNAT --to-destination {target}")
            if not targets:
                refused.append(f"{where} -j REJECT --reject-with icmp-port-unreachable")
        tables = (("nat", nat), ("filter", refused))
        return "".join("\n".join((f"*{table}", f":{_CHAIN} -", *lines, "COMMIT", "")) for table, lines in tables)

    def names(self, pods: Sequence[Pod]) -> str:
        """For /etc/hosts, in place of the cluster's DNS."""
        lines = ["127.0.0.1 localhost"]
        for name, service in self._services.items():
            full = f"{name}.{self._namespace}.svc"
            aliases = f"{name} {name}.{self._namespace} {full} {full}.cluster.local"
            if name in self.addresses:
                lines.append(f"{self.addresses[name]} {aliases}")
                continue
            lines += [f"{pod.host.address} {aliases}" for pod in self._endpoints(service, pods)]
        return "\n".join((*lines, *(f"{pod.host.address} {self._names_of(pod)}" for pod in pods), ""))

    def _names_of(self, pod: Pod) -> str:
        """Its own, and those that a subdomain gives it, whether it is ready or not."""
        if (subdomain := pod.spec.get("subdomain")) is None:
            return pod.name
        full = f"{pod.name}.{subdomain}.{self._namespace}"
        return f"{pod.name} {full} {full}.svc {full}.svc.cluster.local"

    def _backends(self, pods: Sequence[Pod]) -> Iterator[tuple[str, int, list[str]]]:
        for name, address in self.addresses.items():
            service = self._services[name]
            endpoints = self._endpoints(service, pods)
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                yield address, port["port"], [f"{pod.host.address}:{port_of(pod, target)}" for pod in endpoints]

    def _endpoints(self, service: Mapping[str, Any], pods: Sequence[Pod]) -> list[Pod]:
        selector, all_of_them = service["spec"].get("selector") or {}, service["spec"].get("publishNotReadyAddresses")
        chosen = [pod for pod in pods if selector and matches(selector, pod.labels)]
        return [pod for pod in chosen if all_of_them or pod.is_ready]


def port_of(pod: Pod, target: int | str) -> int:
    """Of a pod, by its number or its name."""
    if isinstance(target, int):
        return target
    ports = (port for container in pod.spec["containers"] for port in container.get("ports", ()))
    return next(port["containerPort"] for port in ports if port.get("name") == target)


def inside(host: Host, *argv: str, given: str | None = None) -> None:
    """Run a command in the host's network."""
    command = ("nsenter", f"--net=/run/netns/{host.namespace}", *argv)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)} on {host.name}: {done.stderr}\n{given or ''}"
