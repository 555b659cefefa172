"""A whole Headway out of the chart: `helm install` with a profile, each pod on a host of its own."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.service.environment import sdk_exports
from tests.chart.rendering import render
from tests.fleet.backing import S3_PORT, Backing, backing
from tests.fleet.images import ROOT
from tests.fleet.network import Host, Network
from tests.fleet.pods import Fleet
from tests.fleet.process import Process
from tests.object_store import BUCKET, environment

SERVER = "headway-server"
TINY_BASE = ROOT / ".headway-cache" / "tiny-arith"


@dataclass
class Installation:
    """`client`: a host beside the cluster that reaches its Services, as users behind an ingress do."""

    fleet: Fleet
    backing: Backing
    client: Host
    key: str
    admin_key: str
    ca: Path | None = None
    """Of an installation whose planes speak TLS."""

    @property
    def url(self) -> str:
        """Of the server's Service, by the name that its certificate has."""
        port = self.fleet.address(SERVER).rpartition(":")[2]
        return f"{'https' if self.ca else 'http'}://{SERVER}.headway.svc:{port}"

    @property
    def client_environment(self) -> dict[str, str]:
        """What a user's programs have, as `source env` sets it."""
        own = {"NO_PROXY": "*", "PYTHONUNBUFFERED": "1", "HOME": "/tmp", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        trusted = {"SSL_CERT_FILE": str(self.ca)} if self.ca else {}
        return {**sdk_exports(self.url, self.key), **own, **trusted, "OMP_NUM_THREADS": "1"}

    def start(self, folder: Path, *words: str) -> Process:
        """`python WORDS…` on the client's host, in this repository. What it writes to `folder` stays, and what it says
        is in `log` there."""
        names = self.client.folder / "names"
        names.write_text(self.fleet.services.names(()))
        return self.client.start(
            [sys.executable, *words],
            self.client_environment,
            mounts={str(folder): folder, "/etc/hosts": names},
            cwd=str(ROOT),
            log=folder / "log",
        )

    def headway(self, *words: str) -> str:
        """`kubectl exec deploy/headway-server -- headway WORDS…`: what it printed."""
        return in_server(self.fleet, words)


def in_server(fleet: Fleet, words: Sequence[str]) -> str:
    """Output of a command of Headway in a ready server pod. Raises AssertionError with what it said if it failed."""
    pod = next(pod for pod in fleet.pods(component="server") if pod.is_ready)
    container = pod.runs[0].container
    assert container is not None
    done = container.execute(["headway", *words], timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def installation(
    network: Network,
    folder: Path,
    values: Mapping[str, Any] | None = None,
    given: Mapping[str, Mapping[str, str]] | None = None,
    ca: Path | None = None,
    profile: str = "no-gpu",
) -> Iterator[Installation]:
    """Ready when the block begins. folder: for bases, of this machine; values: over those of the profile; given:
    Secrets beside those that every installation has; ca: of the planes' certificates, if they have any."""
    with backing(network) as store:
        documents = render(profile, values=_over(_of_the_operator(store), values or {}))
        operators = {**_secrets(store), **(given or {})}
        with Fleet(network, documents, secrets=operators, claims={"headway-models": _models(folder)}) as fleet:
            fleet.install()
            fleet.wait_until(lambda: any(pod.is_ready for pod in fleet.pods(component="server")), 180)
            runner_key = in_server(fleet, ("keys", "create", "runners", "--role", "runner"))
            fleet.put_secret("headway-runner-key", {"key": runner_key.strip()})
            fleet.wait_until_ready(300)
            client = fleet.attach(network.host("client"))
            keys = [in_server(fleet, ("keys", "create", "someone", "--role", role)) for role in ("member", "admin")]
            yield Installation(fleet, store, client, *(key.strip() for key in keys), ca)


def _of_the_operator(store: Backing) -> dict[str, Any]:
    return {
        "objectStore": {
            "checkpoints": f"s3://{BUCKET}/checkpoints",
            "blobs": f"s3://{BUCKET}/blobs",
            "endpoint": store.s3_endpoint,
        },
        "networkPolicy": {
            "database": {"to": [_block(store.postgres)], "ports": [5432]},
            "objectStore": {"to": [_block(store.s3)], "ports": [S3_PORT]},
        },
    }


def _block(host: Host) -> dict[str, Any]:
    return {"ipBlock": {"cidr": f"{host.address}/32"}}


def _secrets(store: Backing) -> dict[str, dict[str, str]]:
    """What the operator has before `helm install`, by the chart's default names. The runners' key comes later."""
    s3 = environment(store.s3_endpoint)
    return {
        "headway-database": {"url": store.database_url},
        "headway-object-store": {
            "access-key-id": s3["AWS_ACCESS_KEY_ID"],
            "secret-access-key": s3["AWS_SECRET_ACCESS_KEY"],
        },
        "headway-tokens": {"sampler-token": secrets.token_urlsafe(16), "metrics-token": secrets.token_urlsafe(16)},
    }


def _models(folder: Path) -> Path:
    """A claim that has the base."""
    models = folder / "models"
    shutil.copytree(TINY_BASE, models / "tiny-arith")
    for path in (folder, models, models / "tiny-arith"):
        path.chmod(0o755)
    return models


def _over(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    merged = json.loads(json.dumps(values))
    for key, value in others.items():
        both_are_maps = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both_are_maps else value
    return merged
