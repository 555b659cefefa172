"""Replicas of LeaderWorkerSets: a leader and workers that find it by name and end together, as its controller does it.

https://lws.sigs.k8s.io; what the chart uses of it: names, variables, labels, one subdomain, and a group that is made
anew when one of its containers was started again or one of its pods was deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.fleet.pod import Pod

_LABELS = "leaderworkerset.sigs.k8s.io"
_RESTART = "RecreateGroupOnPodRestart"


def groups_of(document: Mapping[str, Any]) -> list[Group]:
    """Raises ValueError for what is not known here."""
    spec = document["spec"]
    policies = (spec["leaderWorkerTemplate"].get("restartPolicy"), spec.get("startupPolicy", "LeaderCreated"))
    if policies != (_RESTART, "LeaderCreated") or "networkConfig" in spec:
        raise ValueError(f"{document['metadata']['name']}: {policies} and networkConfig are not known here")
    return [Group(document["metadata"]["name"], index, spec) for index in range(spec.get("replicas", 1))]


@dataclass
class Group:
    """One replica. `pods`: those of its present life, the leader first."""

    set_name: str
    index: int
    spec: Mapping[str, Any]
    pods: Sequence[Pod] = field(default_factory=tuple)

    @property
    def is_whole(self) -> bool:
        """Whether all of its pods are there and ready."""
        return bool(self.pods) and all(pod.is_ready for pod in self.pods)

    @property
    def is_gone(self) -> bool:
        return all(pod.ended.is_set() for pod in self.pods)

    @property
    def has_lost_one(self) -> bool:
        """Whether one of its pods ends, or has started a container again: then all of them end."""
        return any(pod.ending.is_set() or pod.ended.is_set() or pod.has_restarted for pod in self.pods)

    def templates(self, namespace: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Of each of its pods, the leader first: its name, and what it is made from."""
        of_pods = self.spec["leaderWorkerTemplate"]
        size, leader = of_pods["size"], f"{self.set_name}-{self.index}"
        for number in range(size):
            template = of_pods["workerTemplate"] if number else of_pods.get("leaderTemplate", of_pods["workerTemplate"])
            variables = {
                "LWS_LEADER_ADDRESS": f"{leader}.{self.set_name}.{namespace}",
                "LWS_GROUP_SIZE": str(size),
                "LWS_WORKER_INDEX": str(number),
            }
            yield f"{leader}-{number}" if number else leader, self._member(template, number, variables)

    def _member(self, template: Mapping[str, Any], number: int, variables: Mapping[str, str]) -> Mapping[str, Any]:
        given = {"name": self.set_name, "group-index": str(self.index), "worker-index": str(number)}
        metadata = template.get("metadata", {})
        labels = metadata.get("labels", {}) | {f"{_LABELS}/{key}": value for key, value in given.items()}
        kinds = [kind for kind in ("initContainers", "containers") if kind in template["spec"]]
        containers = {kind: [_with(variables, each) for each in template["spec"][kind]] for kind in kinds}
        spec = {**template["spec"], **containers, "subdomain": self.set_name}
        return {"metadata": {**metadata, "labels": labels}, "spec": spec}


def _with(variables: Mapping[str, str], container: Mapping[str, Any]) -> Mapping[str, Any]:
    """First of all, so that the container's own may refer to them."""
    own = [entry for entry in container.get("env", ()) if entry["name"] not in variables]
    return {**container, "env": [*({"name": name, "value": value} for name, value in variables.items()), *own]}
