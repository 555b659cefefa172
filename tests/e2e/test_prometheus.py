"""The example files of docker/monitoring, read by a real Prometheus that scrapes a real box."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.box import Box
from tests.e2e.test_monitoring import lines, train

MONITORING = Path("docker/monitoring")
TOKEN = "scrapes-alone"
WAIT_S = 90.0
QUIET = {
    "Operations that wait or run",
    "Operations that failed",
    "Refused, begun anew, samplers lost",
    "Blobs",
    "Blob seconds, 95th percentile",
    "GPU memory",
}
"""Panels that may have nothing to show: nothing waits, failed, was refused or was large, and there is no GPU."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus: apt-get install prometheus"),
]


def configuration(folder: Path, targets: dict[str, str]) -> Path:
    """The example, with this box's addresses, a token's file that is there, and scrapes every second."""
    (folder / "token").write_text(TOKEN)
    told = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    told["global"]["scrape_interval"] = told["global"]["evaluation_interval"] = "1s"
    for job in told["scrape_configs"]:
        job["authorization"]["credentials_file"] = str(folder / "token")
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    shutil.copy(MONITORING / "alerts.yml", folder)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(told))
    subprocess.run(["promtool", "check", "config", str(path)], check=True, capture_output=True)
    return path


@contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[httpx.Client]:
    """Its HTTP API, once it is ready."""
    config = configuration(folder, targets)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        here = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={here}"], stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://{here}", trust_env=False, timeout=30) as http:
                until(lambda: _is_ready(http))
                yield http
        finally:
            process.terminate()
            process.wait(30)


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/-/ready").status_code == 200
    except httpx.HTTPError:
        return False


def until(look: Any) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.5)
    return found


def query(http: httpx.Client, expression: str) -> list[dict[str, Any]]:
    reply = http.get("/api/v1/query", params={"query": expression.replace("$__rate_interval", "1m")})
    assert reply.status_code == 200, f"{expression}: {reply.text}"
    return reply.json()["data"]["result"]


def address(url: str) -> str:
    return url.removeprefix("http://").removesuffix("/metrics")


def targets(box: Box) -> dict[str, str]:
    """Each job's address: trainer and sampler say theirs in their logs."""

    def told(plane: str, event: str) -> str:
        return until(lambda: next((line["url"] for line in lines(box, plane) if line["event"] == event), None))

    found = {"server": box.url, "trainer": told("trainer", "metrics"), "sampler": told("sampler", "sampler_ready")}
    return {f"headway-{plane}": address(url) for plane, url in found.items()}


def alerts(http: httpx.Client) -> list[dict[str, Any]]:
    (group,) = http.get("/api/v1/rules").json()["data"]["groups"]
    return group["rules"]


def test_prometheus_scrapes_every_plane_and_answers_every_query(
    own_box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HEADWAY_METRICS_TOKEN", TOKEN)
    monkeypatch.setenv("HEADWAY_METRICS_PORT", "0")
    own_box.start()
    with prometheus(tmp_path, targets(own_box)) as http:
        until(lambda: len(query(http, "up == 1")) == 3)
        for name in ("first", "second"):
            train(own_box, name)
            time.sleep(2)  # a scrape, between which and the next the counters climb
        until(lambda: query(http, "sum(rate(headway_trainer_steps_total[1m])) > 0"))
        panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
        shown = {panel["title"]: [query(http, one["expr"]) for one in panel.get("targets", [])] for panel in panels}
        until(lambda: all(rule["health"] != "unknown" for rule in alerts(http)))
        told = alerts(http)
        known = set(http.get("/api/v1/metadata").json()["data"])
    named = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"headway_[a-z_]+", json.dumps(panels))}
    assert named <= known
    assert {title for title, results in shown.items() if results and not all(results)} <= QUIET
    assert {rule["name"]: rule["lastError"] for rule in told if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in told if rule["state"] == "firing"] == []


def test_promtool_takes_the_files_as_they_are():
    check = ["promtool", "check", "config", "--syntax-only", str(MONITORING / "prometheus.yml")]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
