"""Rendered manifests as processes on simulated hosts: a host for each pod, and what a cluster does for them.

Deployments keep so many pods and LeaderWorkerSets so many groups, hooks of Helm run before everything else, Services
find the ready pods, NetworkPolicies hold. Autoscalers, disruption budgets and ingresses are no processes: what they
would do, a test does (`scale`, `delete`).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fleet.groups import Group, groups_of
from tests.fleet.network import Host, Network
from tests.fleet.pod import Pod, Surroundings
from tests.fleet.policies import HOOKS, Policies
from tests.fleet.services import Services, inside, matches
from tests.fleet.variables import Objects, service_links

_HOOK = "helm.sh/hook"
_WEIGHT = "helm.sh/hook-weight"
_PROPAGATION_S = 0.5
"""Until every host knows of a change of readiness: in a cluster, what EndpointSlices and kube-proxy take."""
NOTICED_AFTER_S = 40.0
"""Without heartbeats of a node, by Kubernetes' default."""
_NOT_PROCESSES = {
    "HorizontalPodAutoscaler",
    "Ingress",
    "Namespace",
    "PodDisruptionBudget",
    "PodMonitor",
    "PriorityClass",
    "PrometheusRule",
    "ScaledObject",
    "ServiceAccount",
    "ServiceMonitor",
    "TriggerAuthentication",
}


class Fleet:
    """A context manager; everything ends with it."""

    def __init__(
        self,
        network: Network,
        documents: Iterable[Mapping[str, Any]],
        *,
        namespace: str = "headway",
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        claims: Mapping[str, Path] | None = None,
        clocks: bool = False,
    ) -> None:
        """secrets: those that the operator has; claims: folders by the name of a claim or a path of the node; clocks:
        every host has one of its own, which can be set while its pod runs. Raises ValueError for a kind of document
        that is not known here."""
        self.network = network
        self._documents = list(documents)
        self._namespace = namespace
        self._claims = claims or {}
        self._clocks = clocks
        self.objects = Objects({name: dict(data) for name, data in (secrets or {}).items()}, {})
        self.services = Services(self._of_kind("Service"), namespace)
        self._policies = Policies(self._of_kind("NetworkPolicy"), namespace)
        self._replicas: dict[str, int] = {}
        self._groups: list[Group] = []
        self._pods: list[Pod] = []
        self._numbers: dict[str, int] = {}
        self._others: list[Host] = []
        self._lock = threading.RLock()
        self._changed, self._closing = threading.Event(), threading.Event()
        self._known_ready: frozenset[Pod] = frozenset()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._propagate, self._control)]
        self._read_objects()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._changed.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        for pod in self.pods():
            pod.delete(0)
        for pod in self.pods():
            pod.ended.wait(30 if pod.ending.is_set() else 0)

    def install(self, hook_timeout_s: float = 120.0) -> None:
        """As `helm install`: hooks first, each to its end, then everything else, which may not be ready yet."""
        hooks = [job for job in self._of_kind("Job") if "pre-install" in _annotation(job, _HOOK)]
        for job in sorted(hooks, key=lambda job: int(_annotation(job, _WEIGHT) or 0)):
            self.run_job(job, hook_timeout_s)
        for deployment in self._of_kind("Deployment"):
            self._replicas[_name(deployment)] = deployment["spec"].get("replicas", 1)
        self._groups = [group for each in self._of_kind("LeaderWorkerSet") for group in groups_of(each)]
        for thread in self._threads:
            thread.start()

    def run_job(self, job: Mapping[str, Any], timeout_s: float) -> None:
        """Raises AssertionError with what it said unless it succeeds within its attempts."""
        said = ""
        for _ in range(job["spec"].get("backoffLimit", 6) + 1):
            pod = self._make_pod(_name(job), job["spec"]["template"])
            assert pod.ended.wait(timeout_s), f"{pod.name} did not end in {timeout_s} s: {pod.waits_for}\n{pod.log()}"
            if all(status == 0 for status in pod.exit_statuses):
                return
            said = pod.log()
        raise AssertionError(f"the job {_name(job)} has failed\n{said}")

    def pods(self, owner: str | None = None, **labels: str) -> list[Pod]:
        """Those that have not ended; owner: of one Deployment. labels: the last part of their keys, as component."""
        with self._lock:
            pods = [pod for pod in self._pods if not pod.ended.is_set()]
        wanted = {f"app.kubernetes.io/{key}": value for key, value in labels.items()}
        return [pod for pod in pods if owner in (None, pod.owner) and matches(wanted, pod.labels)]

    def address(self, service: str) -> str:
        """HOST:PORT of a Service's first port."""
        [found] = [each for each in self._of_kind("Service") if _name(each) == service]
        return f"{self.services.addresses[service]}:{found['spec']['ports'][0]['port']}"

    def attach(self, host: Host) -> Host:
        """A host without a pod, which reaches Services from now on."""
        self.services.lead(host)
        with self._lock:
            self._others.append(host)
        self._spread()
        return host

    def scale(self, deployment: str, replicas: int) -> None:
        """As an autoscaler does. Returns at once."""
        with self._lock:
            assert deployment in self._replicas, f"there is no deployment {deployment!r}"
            self._replicas[deployment] = replicas

    def vanish(self, pod: Pod, noticed_after_s: float = NOTICED_AFTER_S) -> None:
        """Its host is gone without a word. The cluster learns of it so much later; until then Services name the pod,
        and no other takes its place. Returns at once."""
        pod.lose(noticed_after_s)
        self.network.vanish(pod.host)

    def put_secret(self, name: str, data: Mapping[str, str]) -> None:
        """Pods that wait for it begin. Of one that was there, files change in pods that run; variables do in pods that
        are made later."""
        self.objects.secrets[name] = dict(data)
        for pod in self.pods():
            if pod.volumes is not None:
                pod.volumes.refresh(self.objects)

    def said(self) -> str:
        """What pods that are not ready have logged, or wait for."""
        late = [pod for pod in self.pods() if not pod.is_ready]
        return "\n".join(f"{pod.name} waits for: {pod.waits_for}\n{pod.log()}" for pod in late)

    def wait_until_ready(self, timeout_s: float = 180.0) -> None:
        """All pods of all Deployments and groups. Raises AssertionError with the logs of those that are not."""
        self.wait_until(self._is_settled, timeout_s)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert all(thread.is_alive() for thread in self._threads), "the fleet's own thread has died, see above"
            assert time.monotonic() < deadline, f"not within {timeout_s} s\n{self.said()}"
            time.sleep(0.1)

    def _is_settled(self) -> bool:
        """Ready, and known to be by every host."""
        known = self._known_ready
        settled = all(group.is_whole and known.issuperset(group.pods) for group in self._groups)
        for deployment, replicas in self._replicas.items():
            pods = [pod for pod in self.pods(deployment) if not pod.ending.is_set()]
            settled &= len(pods) == replicas and all(pod in known and pod.is_ready for pod in pods)
        return settled

    def _of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        return [document for document in self._documents if document["kind"] == kind]

    def _read_objects(self) -> None:
        for document in self._documents:
            match document["kind"]:
                case "ConfigMap":
                    self.objects.config_maps[_name(document)] = document.get("data", {})
                case "Secret":
                    self.objects.secrets[_name(document)] = document.get("stringData", {})
                case "Deployment" | "Job" | "LeaderWorkerSet" | "NetworkPolicy" | "Service":
                    pass
                case kind if kind not in _NOT_PROCESSES:
                    raise ValueError(f"documents of the kind {kind} are not known here")
                case _:
                    pass

    def _make_pod(self, owner: str, template: Mapping[str, Any], name: str | None = None) -> Pod:
        component = template["metadata"].get("labels", {}).get("app.kubernetes.io/component", owner)
        with self._lock:
            number = self._numbers[component] = self._numbers.get(component, 0) + 1
            host = self.network.host(f"{component}-{number}")
        if self._clocks:
            host.clock_offset_s = 0.0
        links = service_links(self._of_kind("Service"), self.services.addresses)
        around = Surroundings(self._namespace, self.objects, links, self._claims, self._changed.set)
        self.services.lead(host)
        inside(host, "iptables-restore", "-w", "--noflush", given=HOOKS)
        pod = Pod(name or f"{owner}-{uuid.uuid4().hex[:5]}", owner, template, host, around)
        with self._lock:
            self._pods.append(pod)
        self._spread()
        pod.start()
        return pod

    def _control(self) -> None:
        """Keep as many pods of each Deployment as it shall have, and all groups."""
        templates = {_name(each): each["spec"]["template"] for each in self._of_kind("Deployment")}
        while not self._closing.wait(0.1):
            for deployment, replicas in list(self._replicas.items()):
                pods = [pod for pod in self.pods(deployment) if not pod.ending.is_set()]
                for _ in range(replicas - len(pods)):
                    self._make_pod(deployment, templates[deployment])
                for pod in _least_useful_first(pods)[: max(0, len(pods) - replicas)]:
                    pod.delete()
            for group in self._groups:
                self._keep_group(group)

    def _keep_group(self, group: Group) -> None:
        if group.is_gone:
            templates = group.templates(self._namespace)
            group.pods = [self._make_pod(group.set_name, template, name) for name, template in templates]
        elif group.has_lost_one:
            for pod in group.pods:
                pod.delete()

    def _propagate(self) -> None:
        while not self._closing.is_set():
            self._changed.wait()
            time.sleep(_PROPAGATION_S)
            self._changed.clear()
            self._spread()

    def _spread(self) -> None:
        """Tell every host which pods are ready, and every pod the names and what it may reach."""
        with self._lock:
            pods = self.pods()
            ready = frozenset(pod for pod in pods if pod.is_ready)
            rules, names = self.services.rules(pods), self.services.names(pods)
            for pod in pods:
                _restore(pod.host, rules + self._policies.rules(pod, pods))
                (pod.folder / "hosts").write_text(names)
            for host in self._others:
                _restore(host, rules)
            self._known_ready = ready


def _restore(host: Host, rules: str) -> None:
    if Path("/run/netns", host.namespace).exists():  # it has not vanished
        inside(host, "iptables-restore", "-w", "--noflush", given=rules)


def _least_useful_first(pods: Sequence[Pod]) -> list[Pod]:
    return sorted(pods, key=lambda pod: pod.is_ready)


def _annotation(document: Mapping[str, Any], name: str) -> str:
    return document["metadata"].get("annotations", {}).get(name, "")


def _name(document: Mapping[str, Any]) -> str:
    return document["metadata"]["name"]
