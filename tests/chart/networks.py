"""Every pod is closed both ways, and open for as much as it needs: runners, where other people's code runs, reach the
server and names, and only servers reach samplers and runners."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.chart.commands import planes
from tests.chart.pods import Pod, pods
from tests.chart.rendering import Document
from tests.chart.selectors import selects

NAMES_PORT = 53
INTERNAL = ("sampler", "runner")


def open_ways(documents: Sequence[Document]) -> Iterator[str]:
    """Ways in and out that no policy closes, or that one opens too wide."""
    made, policies = pods(documents), [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    for pod in made:
        its = [policy for policy in policies if selects(policy.get("podSelector"), pod.labels)]
        for way in ("Ingress", "Egress"):
            if not any(way in _types(policy) for policy in its):
                yield f"{pod.owner}: no NetworkPolicy closes its {way.lower()}"
        if "runner" in planes(pod):
            rules = [rule for policy in its for rule in policy.get("egress") or []]
            yield from (f"{pod.owner}: reaches {line}" for line in _beyond_the_server(rules, made))
        if planes(pod) & set(INTERNAL):
            rules = [rule for policy in its for rule in policy.get("ingress") or []]
            yield from (f"{pod.owner}: is reached by {line}" for line in _others(rules, pod, made))


def _types(policy: dict[str, Any]) -> list[str]:
    """As Kubernetes has it where a policy does not say."""
    return policy.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in policy else [])]


def _beyond_the_server(rules: Iterable[dict[str, Any]], made: Sequence[Pod]) -> Iterator[str]:
    for rule in rules:
        if {port.get("port") for port in rule.get("ports") or [{}]} == {NAMES_PORT}:
            continue
        yield from _not_of("server", rule.get("to"), made)


def _others(rules: Iterable[dict[str, Any]], pod: Pod, made: Sequence[Pod]) -> Iterator[str]:
    """Pods of a group reach one another, and a monitoring namespace is named by the operator."""
    for rule in rules:
        peers = [peer for peer in rule.get("from") or [{}] if not _is_elsewhere(peer) and not _is_itself(peer, pod)]
        if peers:
            yield from _not_of("server", peers, made)


def _is_elsewhere(peer: dict[str, Any]) -> bool:
    return bool((peer.get("namespaceSelector") or {}).get("matchLabels"))


def _is_itself(peer: dict[str, Any], pod: Pod) -> bool:
    return bool(peer.get("podSelector")) and selects(peer["podSelector"], pod.labels)


def _not_of(plane: str, peers: Sequence[dict[str, Any]] | None, made: Sequence[Pod]) -> Iterator[str]:
    if not peers:
        yield "everything"
    for peer in peers or []:
        if set(peer) != {"podSelector"}:
            yield str(peer or "everything")
            continue
        for pod in made:
            if selects(peer["podSelector"], pod.labels) and plane not in planes(pod):
                yield pod.owner
