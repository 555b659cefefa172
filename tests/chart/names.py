"""Names and labels that Kubernetes takes, and what is made of them later: no schema says how long they may be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from tests.chart.pods import Pod, pods
from tests.chart.rendering import Document
from tests.chart.validation import title

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
HOST = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""Of Services, and of groups, which have a Service of their name."""
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LABEL_LENGTH = 63
PORT = re.compile(r"(?=[a-z0-9-]{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
LONGEST = {"Service": 63, "StatefulSet": 52, "LeaderWorkerSet": 49, "Job": 63, "ScaledObject": 63}
"""Elsewhere 253. A pod of a StatefulSet has its name and a hash (11 characters) in a label; one of a group the
StatefulSet's of its leader, which has a number at its end. What KEDA makes has the ScaledObject's name in a label."""


def unusable(documents: Sequence[Document]) -> Iterator[str]:
    """Names and labels that the API, or a controller later, would refuse."""
    for document in documents:
        yield from (f"{title(document)}: {line}" for line in _name(document))
        yield from (f"{title(document)}: {line}" for line in _labels(document["metadata"].get("labels") or {}))
    for pod in pods(documents):
        yield from (f"{pod.owner}: {line}" for line in _labels(pod.labels))
        yield from (f"{pod.owner}: {line}" for line in _ports(pod))


def _name(document: Document) -> Iterator[str]:
    kind, name = document["kind"], document["metadata"]["name"]
    form = HOST if kind in ("Service", "LeaderWorkerSet") else SUBDOMAIN
    if not form.fullmatch(name):
        yield "its name has characters that it may not have, or not there"
    if len(name) > LONGEST.get(kind, 253):
        yield f"its name has {len(name)} characters, and may have {LONGEST.get(kind, 253)}"


def _ports(pod: Pod) -> Iterator[str]:
    names = [port["name"] for container in pod.all_containers for port in container.get("ports") or []]
    yield from (f"a port cannot be called {name!r}" for name in names if not PORT.fullmatch(name))
    yield from (f"two of its ports are called {name}" for name in sorted({n for n in names if names.count(n) > 1}))


def _labels(labels: dict[str, Any]) -> Iterator[str]:
    for key, value in labels.items():
        if not LABEL.fullmatch(str(value)) or len(str(value)) > LABEL_LENGTH:
            yield f"the label {key} cannot be {value!r}"
