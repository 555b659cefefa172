"""The pods that documents make, whatever makes them: Deployments, Jobs, LeaderWorkerSets and others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.chart.rendering import Document
from tests.chart.validation import title


@dataclass(frozen=True)
class Pod:
    """A template of pods. owner: kind and name of what makes them. ends: it is done at some time, as a Job's.

    follows: it works for the leader of its group, which alone is asked how they are."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]
    ends: bool = False
    follows: bool = False

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Those that go on for as long as the pod does: sidecars, too."""
        sidecars = [c for c in self.spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
        return [*sidecars, *self.spec["containers"]]

    @property
    def all_containers(self) -> list[dict[str, Any]]:
        """Those that run before the others, too."""
        first = [c for c in self.spec.get("initContainers") or [] if c not in self.containers]
        return [*first, *self.containers]

    def title(self, container: dict[str, Any]) -> str:
        return f"{self.owner}: container {container.get('name')}"


def pods(documents: Iterable[Document]) -> list[Pod]:
    """Every template of pods in the documents."""
    return [pod for document in documents for pod in _of_one(document)]


def _of_one(document: Document) -> Iterator[Pod]:
    owner, kind, spec = title(document), document["kind"], document.get("spec") or {}
    if kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"):
        yield _pod(owner, spec["template"])
    elif kind == "Job":
        yield _pod(owner, spec["template"], ends=True)
    elif kind == "CronJob":
        yield _pod(owner, spec["jobTemplate"]["spec"]["template"], ends=True)
    elif kind == "Pod":
        yield _pod(owner, document)
    elif kind == "LeaderWorkerSet":
        yield from _of_group(owner, spec["leaderWorkerTemplate"])


def _of_group(owner: str, template: dict[str, Any]) -> Iterator[Pod]:
    leader = template.get("leaderTemplate")
    if leader:
        yield _pod(f"{owner} leader", leader)
    yield _pod(f"{owner} worker" if leader else owner, template["workerTemplate"], follows=bool(leader))


def _pod(owner: str, template: dict[str, Any], *, ends: bool = False, follows: bool = False) -> Pod:
    labels = (template.get("metadata") or {}).get("labels") or {}
    return Pod(owner, labels, template["spec"], ends=ends, follows=follows)
