"""NetworkPolicies on simulated hosts: what a pod may send and receive, by rules of iptables on its own host.

As in Kubernetes: a pod that no policy selects reaches everything; one that some select reaches what any of these
allow, answers included; its own host (a kubelet's probes) always reaches it. Packets that are not allowed are dropped.
The table is `mangle`, which nobody else uses here: what leaves is looked at when Services have chosen its destination.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fleet.pod import Pod
from tests.fleet.services import matches, port_of

_IN, _OUT = "FLEET-IN", "FLEET-OUT"
HOOKS = f"*mangle\n:{_IN} -\n-A INPUT -j {_IN}\n:{_OUT} -\n-A POSTROUTING -j {_OUT}\nCOMMIT\n"
"""For iptables-restore, once for each host."""


@dataclass(frozen=True)
class Policies:
    """Of one namespace. Raises ValueError, in `rules`, for selectors that are not by labels alone."""

    documents: Sequence[Mapping[str, Any]]
    namespace: str

    def rules(self, pod: Pod, pods: Sequence[Pod]) -> str:
        """For iptables-restore on the pod's host."""
        own = [each["spec"] for each in self.documents if _selects(each["spec"]["podSelector"], pod)]
        lines = [
            *self._chain(_IN, "-i", [spec for spec in own if "Ingress" in _types(spec)], "ingress", pod, pods),
            *self._chain(_OUT, "-o", [spec for spec in own if "Egress" in _types(spec)], "egress", pod, pods),
        ]
        return "\n".join(("*mangle", f":{_IN} -", f":{_OUT} -", *lines, "COMMIT", ""))

    def _chain(
        self, chain: str, device: str, specs: Sequence[Mapping[str, Any]], way: str, pod: Pod, pods: Sequence[Pod]
    ) -> Iterator[str]:
        if not specs:
            return
        yield f"-A {chain} {device} lo -j RETURN"
        yield f"-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"
        for rule in (rule for spec in specs for rule in spec.get(way) or ()):
            for address, peer in self._peers(rule.get("from" if way == "ingress" else "to"), pods):
                where = f" {'-s' if way == 'ingress' else '-d'} {address}" if address else ""
                for port in _ports(rule.get("ports"), pod if way == "ingress" else peer):
                    yield f"-A {chain}{where}{port} -j RETURN"
        yield f"-A {chain} -j DROP"

    def _peers(
        self, peers: Sequence[Mapping[str, Any]] | None, pods: Sequence[Pod]
    ) -> Iterator[tuple[str, Pod | None]]:
        """Addresses, with the pod where it is one's; no peers named: everybody."""
        if not peers:
            yield "", None
        for peer in peers or ():
            if "ipBlock" in peer:
                yield from ((block, None) for block in _blocks(peer["ipBlock"]))
            elif self._is_here(peer.get("namespaceSelector")):
                chosen = (pod for pod in pods if _selects(peer.get("podSelector", {}), pod))
                yield from ((pod.host.address, pod) for pod in chosen)

    def _is_here(self, selector: Mapping[str, Any] | None) -> bool:
        """Whether pods of this namespace are meant; there are no others."""
        return selector is None or matches(_labels(selector), {"kubernetes.io/metadata.name": self.namespace})


def _selects(selector: Mapping[str, Any], pod: Pod) -> bool:
    return matches(_labels(selector), pod.labels)


def _labels(selector: Mapping[str, Any]) -> Mapping[str, str]:
    if selector.get("matchExpressions"):
        raise ValueError(f"selectors by expressions are not known here: {dict(selector)}")
    return selector.get("matchLabels") or {}


def _types(spec: Mapping[str, Any]) -> Iterable[str]:
    return spec.get("policyTypes") or ("Ingress", *(("Egress",) if "egress" in spec else ()))


def _ports(ports: Sequence[Mapping[str, Any]] | None, target: Pod | None) -> Iterator[str]:
    """Matches of iptables; none named: all. A name is that of a port of the pod which is connected to."""
    if not ports:
        yield ""
    for each in ports or ():
        protocol = f" -p {each.get('protocol', 'TCP').lower()}"
        if "port" not in each:
            yield protocol
        elif isinstance(each["port"], int):
            last = f":{each['endPort']}" if "endPort" in each else ""
            yield f"{protocol} --dport {each['port']}{last}"
        elif target is not None:
            yield f"{protocol} --dport {port_of(target, each['port'])}"


def _blocks(block: Mapping[str, Any]) -> list[str]:
    left = [ipaddress.ip_network(block["cidr"])]
    for excepted in map(ipaddress.ip_network, block.get("except", ())):
        left = [part for net in left for part in (net.address_exclude(excepted) if excepted.subnet_of(net) else [net])]
    return [str(net) for net in left if net.version == 4]
