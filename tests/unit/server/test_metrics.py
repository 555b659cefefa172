"""docs/monitoring.md, the dashboard and the alerts name what there is, and workers are added up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from sampler.metrics import SamplerMetrics
from server.metrics.census import census_exposition
from server.metrics.instruments import ServerMetrics
from server.metrics.workers import exposition, shared_counts
from store.census import Census, Held, ModelHead, OpenOperations
from store.planes.scaling_policy import ScalingPolicy
from trainer.worker.instruments import TrainerMetrics

DOCUMENTED = set(re.findall(r"^\| `(headway_[a-z_]+)` \|", Path("docs/monitoring.md").read_text(), re.MULTILINE))
MONITORING = Path("docker/monitoring")
# Shown by the composition root, which has the engine at hand (tests/e2e/test_monitoring.py sees them there).
OF_THE_ENGINE = {
    f"headway_trainer_{name}"
    for name in (
        *("ranks", "leases", "sessions", "session_bytes", "device_bytes"),
        *("pictures_total", "picture_seconds_total", "feature_bytes"),
    )
}


def exposed(text: str) -> set[str]:
    """Names as the documentation spells them: a counter with its _total, a histogram without suffix."""
    families = text_string_to_metric_families(text)
    ours = [f for f in families if f.name.startswith("headway_") and not f.name.endswith("_created")]
    return {family.name + ("_total" if family.type == "counter" else "") for family in ours}


def names_in_code() -> set[str]:
    held = [Held("base", "kind", 1)]
    head = ModelHead(uuid.uuid4(), "slug", "team", 1, {})
    census = Census([OpenOperations("forward", "queued", 1, 0.5)], held, held, held, held, [], [], 1, 1, [], [head])
    texts = [census_exposition(census, Path.cwd(), ScalingPolicy(0.0, 1)).decode()]
    for metrics in (ServerMetrics(), SamplerMetrics(), TrainerMetrics()):
        texts.append(exposition(metrics.registry).decode())
    return set().union(*map(exposed, texts)) | OF_THE_ENGINE


def names_in(queries: str) -> set[str]:
    found = set(re.findall(r"\bheadway_[a-z_]+", queries))
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in found}


def test_the_documentation_lists_every_metric_and_no_other():
    assert names_in_code() == DOCUMENTED


def test_every_query_of_the_dashboard_names_metrics_that_exist():
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(panels) > 20
    for panel in panels:
        for target in panel["targets"]:
            assert names_in(target["expr"]), panel["title"]
            assert names_in(target["expr"]) <= DOCUMENTED, panel["title"]


def test_every_alert_names_metrics_that_exist():
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert names_in(rule["expr"]), rule["alert"]
        assert names_in(rule["expr"]) <= DOCUMENTED, rule["alert"]


def test_the_scrape_configuration_sends_the_token_to_every_plane():
    configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in configuration["scrape_configs"]}
    assert set(jobs) == {"headway-server", "headway-trainer", "headway-sampler"}
    assert all(job["authorization"]["credentials_file"] for job in jobs.values())
    assert configuration["rule_files"] == ["alerts.yml"]


_WORKER = """
import uuid
from server.metrics.instruments import ServerMetrics
metrics = ServerMetrics()
metrics.request_began()
metrics.request_ended("GET", "/somewhere", 200, 0.01)
metrics.request_began()
print("counted", flush=True)
input()
"""


def test_workers_are_added_up_and_what_a_dead_one_measured_is_forgotten():
    with shared_counts():
        workers = [
            subprocess.Popen([sys.executable, "-c", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        try:
            for worker in workers:
                assert worker.stdout is not None
                assert worker.stdout.readline() == "counted\n"
            assert _counted_and_in_flight() == (2.0, 2.0)
            workers[0].kill()
            workers[0].wait()
            assert _counted_and_in_flight() == (2.0, 1.0)
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def _counted_and_in_flight() -> tuple[float, float]:
    text = exposition(CollectorRegistry()).decode()
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    return samples["headway_http_request_seconds_count"], samples["headway_http_requests_in_flight"]


def test_the_page_says_that_the_database_is_away():
    text = census_exposition(None, Path("/nowhere/at/all"), ScalingPolicy(0.0, 1)).decode()
    assert "headway_database_up 0.0" in text
    assert exposed(text) == {"headway_database_up", "headway_disk_bytes"}


@pytest.mark.parametrize("metrics", [ServerMetrics(), TrainerMetrics(), SamplerMetrics()])
def test_every_metric_is_of_headway_and_has_a_help(metrics: ServerMetrics | TrainerMetrics | SamplerMetrics):
    for family in metrics.registry.collect():
        assert family.name.startswith("headway_")
        assert family.documentation
