from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.probes import Health, ProbeSettings

HTTP = {"httpGet": {"path": "/healthz", "port": 80}}


def container(**probes: dict[str, Any]) -> dict[str, Any]:
    return {f"{kind}Probe": {**HTTP, **probe} for kind, probe in probes.items()}


def test_a_probe_has_the_defaults_of_kubernetes():
    settings = ProbeSettings.of(HTTP)
    assert (settings.period_s, settings.timeout_s, settings.successes, settings.failures) == (10, 1, 1, 3)
    with pytest.raises(ValueError, match="probe"):
        ProbeSettings.of({"periodSeconds": 3})


def test_readiness_comes_with_the_first_success_and_goes_with_the_last_of_its_failures():
    health = Health(container(readiness={"failureThreshold": 2}))
    assert not health.is_ready
    health.answered("readiness", True)
    assert health.is_ready
    health.answered("readiness", False)
    assert health.is_ready
    health.answered("readiness", False)
    assert not health.is_ready
    assert not health.must_restart


def test_failures_count_only_one_after_another():
    health = Health(container(liveness={"failureThreshold": 2}))
    for is_well in (False, True, False, True):
        health.answered("liveness", is_well)
    assert not health.must_restart
    health.answered("liveness", False)
    health.answered("liveness", False)
    assert health.must_restart


def test_other_probes_wait_for_the_start():
    health = Health(container(startup={"failureThreshold": 3}, liveness={}, readiness={}))
    assert health.is_due("startup")
    assert not health.is_due("liveness")
    health.answered("startup", False)
    health.answered("startup", True)
    assert health.has_started
    assert not health.is_ready
    assert health.is_due("liveness")
    assert not health.is_due("startup")


def test_a_container_that_never_starts_is_restarted():
    health = Health(container(startup={"failureThreshold": 2}))
    health.answered("startup", False)
    assert not health.must_restart
    health.answered("startup", False)
    assert health.must_restart


def test_without_probes_a_container_is_ready_at_once():
    assert Health({}).is_ready
