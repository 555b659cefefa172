"""What a probe's answers mean, by its own period and thresholds: the kubelet's state machine, without the asking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProbeSettings:
    """As in the manifest, with Kubernetes' defaults."""

    action: Mapping[str, Any]
    initial_delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    successes: int = 1
    failures: int = 3

    @classmethod
    def of(cls, probe: Mapping[str, Any]) -> ProbeSettings:
        """Raises ValueError for a probe without an action that is known here."""
        action = {kind: probe[kind] for kind in ("exec", "httpGet", "tcpSocket") if kind in probe}
        if len(action) != 1:
            raise ValueError(f"a probe asks by exec, httpGet or tcpSocket: {dict(probe)}")
        return cls(
            action,
            probe.get("initialDelaySeconds", 0.0),
            probe.get("periodSeconds", 10.0),
            probe.get("timeoutSeconds", 1.0),
            probe.get("successThreshold", 1),
            probe.get("failureThreshold", 3),
        )


class ProbeState:
    """`holds`: the last verdict, which changes after so many equal answers one after another."""

    def __init__(self, settings: ProbeSettings, *, holds_at_first: bool) -> None:
        self._settings = settings
        self.holds = holds_at_first
        self._last: bool | None = None
        self._in_a_row = 0

    def answered(self, is_well: bool) -> bool:
        """Whether this answer reached its threshold: the verdict is then `holds`, new or confirmed."""
        self._in_a_row = self._in_a_row + 1 if is_well == self._last else 1
        self._last = is_well
        if self._in_a_row < (self._settings.successes if is_well else self._settings.failures):
            return False
        self.holds = is_well
        return True


class Health:
    """Of one running container: `has_started` lets the other two probes begin; `is_ready` is what Services look at;
    `must_restart` once liveness (or starting) has failed so often that the container is killed."""

    def __init__(self, container: Mapping[str, Any]) -> None:
        self.settings = {
            kind: ProbeSettings.of(container[f"{kind}Probe"])
            for kind in ("startup", "liveness", "readiness")
            if f"{kind}Probe" in container
        }
        self._states = {
            kind: ProbeState(settings, holds_at_first=kind == "liveness") for kind, settings in self.settings.items()
        }
        self.must_restart = False

    @property
    def has_started(self) -> bool:
        return "startup" not in self._states or self._states["startup"].holds

    @property
    def is_ready(self) -> bool:
        """As in Kubernetes, a container without a readiness probe is ready as soon as it has started."""
        return self.has_started and ("readiness" not in self._states or self._states["readiness"].holds)

    def is_due(self, kind: str) -> bool:
        """Whether this probe is carried out at this stage."""
        return not self.has_started if kind == "startup" else self.has_started

    def answered(self, kind: str, is_well: bool) -> None:
        reached = self._states[kind].answered(is_well)
        if reached and not is_well and kind in ("startup", "liveness"):
            self.must_restart = True
