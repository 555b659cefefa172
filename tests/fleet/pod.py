"""A pod on a host of its own, looked after as a kubelet does: started, probed, restarted, and ended with patience."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fleet.asking import is_well
from tests.fleet.launching import Container
from tests.fleet.network import Host
from tests.fleet.probes import Health
from tests.fleet.variables import NotConfigured, Objects, environment
from tests.fleet.volumes import Volumes

_LOOK_EVERY_S = 0.05
_RETRY_S = 0.5
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 10.0, 300.0
GRACE_S = 30.0
_ALWAYS = "Always"


@dataclass(frozen=True)
class Surroundings:
    """What a pod finds where it starts. links: variables of Services; claims: see `Volumes`; changed: called whenever
    its readiness changes."""

    namespace: str
    objects: Objects
    links: Mapping[str, str]
    claims: Mapping[str, Path]
    changed: Callable[[], None]


class Pod:
    """Runs from `start` on. owner: the name of the Deployment or Job that made it."""

    def __init__(self, name: str, owner: str, template: Mapping[str, Any], host: Host, around: Surroundings) -> None:
        self.name, self.owner, self.host = name, owner, host
        self.labels: dict[str, str] = template["metadata"].get("labels", {})
        self.spec: Mapping[str, Any] = template["spec"]
        self.folder = host.folder / name
        self.folder.mkdir()
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n")
        self._around = around
        self._annotations: dict[str, str] = template["metadata"].get("annotations", {})
        self.volumes: Volumes | None = None
        self.runs = [ContainerRun(self, definition) for definition in self.spec["containers"]]
        self.sidecars: list[ContainerRun] = []
        """Init containers that go on (`restartPolicy: Always`), once their turn has come."""
        self.ending = threading.Event()
        self.ended, self._lost = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._keep, name=name, daemon=True)]
        self._has_been_ready = False
        self.waits_for: str | None = None
        """The Secret, ConfigMap, volume or user without which it cannot be started."""

    def start(self) -> None:
        self._threads[0].start()

    @property
    def is_ready(self) -> bool:
        """Whether Services send requests to it, by its last look at its containers. A pod that ends is not ready from
        the first moment."""
        return self._has_been_ready and not self.ending.is_set() and not self.ended.is_set()

    @property
    def has_restarted(self) -> bool:
        """Whether a container was started again."""
        return any(run.restarts > 0 for run in (*self.sidecars, *self.runs))

    @property
    def exit_statuses(self) -> list[int | None]:
        return [run.status for run in self.runs]

    def log(self) -> str:
        """What its containers have said."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {self.name} {path.stem}\n{path.read_text(errors='replace')[-6000:]}" for path in logs)

    def delete(self, grace_s: float | None = None) -> None:
        """Begin to end it: hooks, SIGTERM, and SIGKILL when its grace is over. Returns at once."""
        if self.ending.is_set() or self._lost.is_set():
            return
        self.ending.set()
        self._around.changed()
        deadline = time.monotonic() + (self._grace_s if grace_s is None else grace_s)
        thread = threading.Thread(target=self._end, args=(deadline,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def lose(self, noticed_after_s: float) -> None:
        """Its host vanishes: from now on nobody looks after it, and after so long it counts as ended. Returns at
        once."""
        self._lost.set()
        self._threads[0].join()

        def notice() -> None:
            self.ended.set()
            self._around.changed()

        timer = threading.Timer(noticed_after_s, notice)
        timer.daemon = True
        timer.start()

    def environment(self, definition: Mapping[str, Any]) -> dict[str, str]:
        """Raises NotConfigured."""
        fields = {
            "metadata.name": self.name,
            "metadata.namespace": self._around.namespace,
            "metadata.uid": self.name,
            "spec.nodeName": self.host.name,
            "spec.serviceAccountName": self.spec.get("serviceAccountName", "default"),
            "status.podIP": self.host.address,
            "status.podIPs": self.host.address,
            "status.hostIP": self.host.address,
            **{f"metadata.labels['{key}']": value for key, value in self.labels.items()},
            **{f"metadata.annotations['{key}']": value for key, value in self._annotations.items()},
        }
        links = self._around.links if self.spec.get("enableServiceLinks", True) else {}
        return {**links, **environment(definition, fields, self._around.objects)}

    @property
    def _grace_s(self) -> float:
        return self.spec.get("terminationGracePeriodSeconds", GRACE_S)

    def _keep(self) -> None:
        """Until the pod is deleted, or its containers have ended and are not to be started again."""
        while not (self.ending.is_set() or self._has_volumes()):
            self.ending.wait(_RETRY_S)
        for definition in self.spec.get("initContainers", ()):
            run = ContainerRun(self, definition)
            if not (self._accompany(run) if definition.get("restartPolicy") == _ALWAYS else self._initialise(run)):
                return
        while not (self.ending.is_set() or self._lost.is_set()):
            for run in self.runs:
                run.look(self.spec.get("restartPolicy", _ALWAYS))
            if all(run.is_over for run in self.runs):
                self._end_sidecars(time.monotonic() + self._grace_s)
                self.ended.set()
                return
            self._look_at_sidecars()
            self._announce()
            self.ending.wait(_LOOK_EVERY_S)

    def _has_volumes(self) -> bool:
        try:
            self.volumes = Volumes(self.spec, self.folder / "volumes", self._around.objects, self._around.claims)
        except NotConfigured as error:
            self.waits_for = str(error)
            return False
        self.waits_for = None
        return True

    def _initialise(self, run: ContainerRun) -> bool:
        """Whether the init container has succeeded; a failed one is started again."""
        while not self.ending.is_set():
            run.look(self.spec.get("restartPolicy", _ALWAYS))
            if run.status == 0:
                return True
            if run.is_over:
                self._end_sidecars(time.monotonic() + self._grace_s)
                self.ended.set()
                return False
            self._look_at_sidecars()
            self.ending.wait(_LOOK_EVERY_S)
        run.end(time.monotonic())
        return False

    def _accompany(self, sidecar: ContainerRun) -> bool:
        """Whether it has started, as its probe says; what comes after it waits until then."""
        self.sidecars.append(sidecar)
        while not (self.ending.is_set() or self._lost.is_set()):
            self._look_at_sidecars()
            if sidecar.has_started:
                return True
            self.ending.wait(_LOOK_EVERY_S)
        return False

    def _look_at_sidecars(self) -> None:
        for sidecar in self.sidecars:
            sidecar.look(_ALWAYS)

    def _end_sidecars(self, deadline: float) -> None:
        """The last first: earlier ones may be needed by later ones."""
        for sidecar in reversed(self.sidecars):
            sidecar.end(deadline)

    def _announce(self) -> None:
        are_ready = all(run.is_ready for run in (*self.sidecars, *self.runs))
        if are_ready != self._has_been_ready:
            self._has_been_ready = are_ready
            self._around.changed()

    def _end(self, deadline: float) -> None:
        self._threads[0].join()
        ends = [threading.Thread(target=run.end, args=(deadline,), daemon=True) for run in self.runs]
        for thread in ends:
            thread.start()
        for thread in ends:
            thread.join()
        self._end_sidecars(deadline)
        self.ended.set()


class ContainerRun:
    """One container of a pod over all its restarts. `terminations`: for each SIGTERM, how it went."""

    def __init__(self, pod: Pod, definition: Mapping[str, Any]) -> None:
        self._pod = pod
        self.definition = definition
        self.container: Container | None = None
        self.restarts = -1
        self.status: int | None = None
        self.is_over = False
        self.was_killed = False
        self._health = Health(definition)
        self._backoff_s, self._starts_at = 0.0, 0.0
        self._ports = {port.get("name", ""): port["containerPort"] for port in definition.get("ports", ())}

    @property
    def is_ready(self) -> bool:
        container = self.container
        return container is not None and container.poll() is None and self._health.is_ready

    @property
    def has_started(self) -> bool:
        """As its startup probe says, or since it runs."""
        container = self.container
        return container is not None and container.poll() is None and self._health.has_started

    def look(self, restart_policy: str) -> None:
        """Start it, see whether it has ended, and kill it when its probes say so."""
        if self.container is None:
            if not self.is_over and time.monotonic() >= self._starts_at:
                self._start()
            return
        if self._health.must_restart and self.container.poll() is None:
            grace_s = self._pod.spec.get("terminationGracePeriodSeconds", GRACE_S)
            self._terminate(self.container, time.monotonic() + grace_s)
        if (status := self.container.poll()) is not None:
            self._has_ended(status, restart_policy)

    def end(self, deadline: float) -> None:
        """For good."""
        container, self.is_over = self.container, True
        if container is not None:
            self._terminate(container, deadline)
            self.status = container.poll()

    def _start(self) -> None:
        pod = self._pod
        assert pod.volumes is not None
        try:
            env, mounts = pod.environment(self.definition), list(pod.volumes.mounts(self.definition))
            container = Container(pod.host, pod.folder, pod.spec, self.definition, env, mounts)
        except NotConfigured as error:
            pod.waits_for, self._starts_at = str(error), time.monotonic() + _RETRY_S
            return
        pod.waits_for = None
        self._health = Health(self.definition)
        self.container = container
        self.restarts += 1
        self.status = None
        for kind in self._health.settings:
            threading.Thread(target=self._probe, args=(kind, self.container, self._health), daemon=True).start()

    def _has_ended(self, status: int, restart_policy: str) -> None:
        self.status, self.container = status, None
        self.is_over = restart_policy == "Never" or (restart_policy == "OnFailure" and status == 0)
        self._starts_at = time.monotonic() + self._backoff_s
        self._backoff_s = min(_LONGEST_BACKOFF_S, max(_FIRST_BACKOFF_S, self._backoff_s * 2))

    def _probe(self, kind: str, container: Container, health: Health) -> None:
        settings = health.settings[kind]
        time.sleep(settings.initial_delay_s)
        while container.poll() is None and not (self._pod.ending.is_set() and kind != "readiness"):
            if health.is_due(kind):
                well = is_well(settings.action, container, self._pod.host, self._ports, settings.timeout_s)
                health.answered(kind, well)
                if kind == "startup" and health.has_started:
                    return
                time.sleep(settings.period_s)
            else:
                time.sleep(_LOOK_EVERY_S)

    def _terminate(self, container: Container, deadline: float) -> None:
        """preStop, SIGTERM, and SIGKILL at the deadline, which all of it counts towards."""
        hook = self.definition.get("lifecycle", {}).get("preStop")
        if hook and container.poll() is None:
            is_well(hook, container, self._pod.host, self._ports, max(0.1, deadline - time.monotonic()))
        container.signal(signal.SIGTERM)
        if not container.wait(deadline - time.monotonic()):
            self.was_killed = True
            container.kill()
