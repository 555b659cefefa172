"""What every pod has: bounds, probes, no rights, a file system that is not written to, a pinned image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.chart.pods import Pod
from tests.chart.storage import amount

IMAGE = re.compile(
    r"([a-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII
)
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def unsafe(pod: Pod) -> Iterator[str]:
    """What a pod lacks or should not have."""
    yield from _of_pod(pod)
    for container in pod.all_containers:
        title = pod.title(container)
        yield from (f"{title}: {line}" for line in _rights(pod, container))
        yield from (f"{title}: {line}" for line in _bounds(container))
        yield from (f"{title}: {line}" for line in _image(container))
    for container in pod.containers:
        yield from (f"{pod.title(container)}: {line}" for line in _probes(pod, container))


def _of_pod(pod: Pod) -> Iterator[str]:
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield f"{pod.owner}: automountServiceAccountToken has to be false: nothing here asks Kubernetes"
    if pod.spec.get("enableServiceLinks") is not False:
        yield f"{pod.owner}: enableServiceLinks has to be false: it would set HEADWAY_…_PORT, which are options"
    for shared in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(shared):
            yield f"{pod.owner}: {shared} is not needed"
    for volume in pod.spec.get("volumes") or []:
        if "hostPath" in volume:
            yield f"{pod.owner}: volume {volume['name']} is a path of the node"


def _rights(pod: Pod, container: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext") or {}
    both = {**(pod.spec.get("securityContext") or {}), **own}
    if both.get("runAsNonRoot") is not True or not both.get("runAsUser"):
        yield "may run as root: runAsNonRoot and runAsUser"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem has to be true"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation has to be false"
    if own.get("privileged"):
        yield "is privileged"
    capabilities = own.get("capabilities") or {}
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield "capabilities: drop [ALL], add none"
    if (both.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        yield "seccompProfile has to be RuntimeDefault"


def _bounds(container: dict[str, Any]) -> Iterator[str]:
    resources = container.get("resources") or {}
    for bound in ("request", "limit"):
        for what in ("cpu", "memory", "ephemeral-storage"):
            if what not in (resources.get(f"{bound}s") or {}):
                yield f"has no {bound} of {what}"
    limits = resources.get("limits") or {}
    for what, request in (resources.get("requests") or {}).items():
        if what in limits and amount(request) > amount(limits[what]):
            yield f"its request of {what}, {request}, is more than its limit, {limits[what]}"


def _image(container: dict[str, Any]) -> Iterator[str]:
    name, _, tag = container.get("image", "").partition("@")[0].rpartition(":")
    pinned = "@sha256:" in container.get("image", "") or (name and "/" not in tag)
    if not pinned or tag == "latest":
        yield f"its image {container.get('image')!r} is not pinned to a release"
    elif not IMAGE.fullmatch(container["image"]):
        yield f"its image {container['image']!r} is no reference to an image"


def _probes(pod: Pod, container: dict[str, Any]) -> Iterator[str]:
    if pod.ends or pod.follows:
        return
    for probe in PROBES:
        if not container.get(probe):
            yield f"has no {probe}"
        elif probe == "startupProbe" and not container[probe].get("failureThreshold"):
            yield "startupProbe: failureThreshold × periodSeconds is how long a start may take: say it"
