"""Folders of a pod fit what it may fill: the kubelet evicts a pod that is over either."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.chart.pods import Pod

DECIMAL = {"": 1, "m": 0.001, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS = DECIMAL | {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def too_small(pod: Pod) -> Iterator[str]:
    """Folders on the node's disk that hold more than all containers together may write."""
    folders = [volume["emptyDir"] or {} for volume in pod.spec.get("volumes") or [] if "emptyDir" in volume]
    held = sum(num_bytes(f["sizeLimit"]) for f in folders if "sizeLimit" in f and f.get("medium") != "Memory")
    limits = [_limit(container) for container in pod.containers]
    if all(limits) and held > sum(limits):
        yield f"{pod.owner}: its folders hold {held >> 20} MiB, and its limits of ephemeral-storage {sum(limits) >> 20}"


def _limit(container: dict[str, Any]) -> int:
    """0: as much as there is."""
    return num_bytes(((container.get("resources") or {}).get("limits") or {}).get("ephemeral-storage", 0))


def num_bytes(quantity: str | float) -> int:
    """Of `20Gi`. Raises ValueError."""
    return int(amount(quantity))


def amount(quantity: str | float) -> float:
    """What Kubernetes takes `20Gi`, `500m` or 2 for. Raises ValueError."""
    found = re.fullmatch(r"([0-9.]+(?:e\+?[0-9]+)?)([A-Za-z]*)", str(quantity))
    if found is None or found[2] not in UNITS:
        raise ValueError(f"{quantity} is no quantity")
    return float(found[1]) * UNITS[found[2]]
