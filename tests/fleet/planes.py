"""A whole Headway on simulated hosts, each plane by its own command: two servers, a trainer, two samplers, a runner.

What a plane kept lies in a folder of its host's, where it is started again. Checkpoints and payloads are in the object
store, which like PostgreSQL has a host of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import psycopg

from tests.fleet.backing import Backing
from tests.fleet.bucket import BucketFolder
from tests.fleet.network import Host, Network
from tests.fleet.process import REPOSITORY, Process
from tests.object_store import BUCKET
from tests.supervised.service import BASE, Service
from tests.supervised.supervisor import Supervisor

SERVERS, SAMPLERS, RUNNERS = ("server-1", "server-2"), ("sampler-1", "sampler-2"), ("runner-1",)
PLANES = (*SERVERS, "trainer", *SAMPLERS, *RUNNERS)
_PORTS = {"server": 8420, "sampler": 8430, "runner": 8440}
_LOOK_EVERY_S = 1.0


class Planes(Service):
    """Started by `start`. The address of the servers is that of the next one, each time it is asked for."""

    start_s = 240.0

    def __init__(self, network: Network, backing: Backing, base: Path) -> None:
        super().__init__(base)
        self.network, self.backing = network, backing
        self.hosts = {name: network.host(name) for name in PLANES}
        self.client_host = network.host("client")
        self._turn = 0
        self._postgres: list[Process] = []
        self._supervisor = Supervisor(self._begin, lambda process: process.poll() is not None, _LOOK_EVERY_S)

    def start(self) -> Planes:
        with self.backing.postgres.inside():
            self._prepare(self.backing.database_url, "fleet")
        for host in self.hosts.values():
            host.clock_offset_s = 0.0
        for name in PLANES:
            self._supervisor.spawn(name)
        self._supervisor.start()
        self._wait_until_ready()
        return self

    def close(self) -> None:
        self._supervisor.close()
        self.database.close()

    @property
    def url(self) -> str:
        """As a client behind a balancer without health checks finds it: each server in turn."""
        self._turn += 1
        return self.url_of(SERVERS[self._turn % len(SERVERS)])

    def url_of(self, server: str) -> str:
        return f"http://{self.hosts[server].address}:{_PORTS['server']}"

    @property
    def checkpoints(self) -> BucketFolder:
        return BucketFolder(self.backing, "checkpoints")

    def connect(self) -> psycopg.Connection:
        return self.backing.connect()

    def vanish(self, name: str) -> None:
        """A plane's host is gone, and not started again before `revive`."""
        self._supervisor.abandon(name)
        self.network.vanish(self.hosts[name])

    def revive(self, name: str) -> None:
        """The machine was started again, with what its disk held."""
        self.network.revive(self.hosts[name])
        self._supervisor.spawn(name)

    def vanish_postgres(self) -> None:
        """The machine is gone without a word; its disk is not."""
        self._postgres = self.network.vanish(self.backing.postgres)

    def revive_postgres(self) -> None:
        """It recovers from its log as after a power cut."""
        self.network.revive(self.backing.postgres)
        for process in self._postgres:
            self.backing.postgres.start_again(process)

    def log(self, name: str) -> str:
        return self.hosts[name].folder.joinpath("log").read_text(errors="replace")

    def logs(self) -> str:
        return "\n".join(f"== {name}\n{self.log(name)[-2500:]}" for name in PLANES)

    def headway(self, host: Host, arguments: Sequence[str], log: Path | None = None) -> Process:
        """A command of Headway's on a host, with the variables of a plane there."""
        data = host.folder / "data"
        data.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.fleet.plane", *arguments]
        mounts = {"/var/lib/headway": data}
        return host.start(command, self._environment(), mounts=mounts, cwd="/var/lib/headway", log=log)

    def _environment(self) -> Mapping[str, str]:
        return {
            **self.backing.s3_environment,
            "HEADWAY_DATABASE_URL": self.backing.database_url,
            "HEADWAY_CHECKPOINT_STORE": f"s3://{BUCKET}/checkpoints",
            "HEADWAY_BLOB_STORE": f"s3://{BUCKET}/blobs",
            "HEADWAY_DATA_DIR": "/var/lib/headway",
            "HEADWAY_BASE": BASE,
            "HEADWAY_SAMPLER_TOKEN": self.sampler_token,
            "HEADWAY_RUNNER_KEY": self.runner_key,
            "HEADWAY_RUNNER_ISOLATION": "none",
            "HEADWAY_SERVER_URL": self.url_of(SERVERS[0]),
            "HEADWAY_LOG_FORMAT": "json",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            "HOME": "/var/lib/headway",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def _arguments(self, name: str) -> list[str]:
        kind, address = name.partition("-")[0], self.hosts[name].address
        listen = ["--host", "0.0.0.0", "--port", str(_PORTS.get(kind, 0))]
        if kind == "trainer":
            return ["trainer", "--device", "cpu", "--threads", "1"]
        if kind == "sampler":
            own = ["--advertise", f"http://{address}:{_PORTS[kind]}", "--backend", "local", "--seed", "0"]
            return ["sampler", *listen, *own, "--threads", "1"]
        own = ["--advertise-url", f"ws://{address}:{_PORTS[kind]}"] if kind == "runner" else []
        return [kind, *listen, *own]

    def _begin(self, name: str) -> Process:
        return self.headway(self.hosts[name], self._arguments(name))

    def _wait_until_ready(self) -> None:
        self.wait_for(lambda: all(self.is_ready(server) for server in SERVERS), "every server is ready")
        live = "select count(*) as live from {} where heartbeat_at > clock_timestamp() - interval '10 s'"
        self.wait_for(lambda: self.query(live.format("samplers"))[0].live == len(SAMPLERS), "samplers are there")
        self.wait_for(lambda: self.query(live.format("runners"))[0].live == len(RUNNERS), "runners are there")

    def is_ready(self, server: str) -> bool:
        """Whether it would be sent requests."""
        try:
            with self.client_host.inside():
                return httpx.get(f"{self.url_of(server)}/readyz", timeout=4.0, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False
