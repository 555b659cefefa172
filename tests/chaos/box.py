"""A whole Headway whose processes die often, on this machine: PostgreSQL, server, trainer and sampler."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import psycopg

from store.database import normalise_url, psycopg_dsn
from store.embedded import EmbeddedPostgres
from tests.chaos.processes import Zygote, children_of, is_alive, send
from tests.chaos.sabotage import SABOTAGES
from tests.postgres_template import lay_out
from tests.supervised.service import BASE, Service
from tests.supervised.supervisor import Death, Supervisor
from wire.process import faults

PLANES = ("server", "trainer", "sampler")
KINDS = ("postgres", *PLANES)
LEASE_TTL_S = 2.0
_LOOK_EVERY_S = 0.05
RUNNER_SLOTS = 6


class Box(Service):
    """Started by `start`. Whatever dies is started again within 50 ms."""

    start_s = 60.0

    def __init__(
        self,
        folder: Path,
        base: Path,
        num_samplers: int = 1,
        num_runners: int = 0,
        trainer_options: Callable[[], Mapping[str, Any]] = dict,
        lease_ttl_s: float = LEASE_TTL_S,
        blob_store_url: str | None = None,
    ) -> None:
        """trainer_options: settings of the next trainer beside the usual ones. blob_store_url: of a store that is not
        in the folder, whose blobs are never forgotten."""
        super().__init__(base)
        self._blob_store_url = blob_store_url or f"file://{folder}/blobs"
        self.folder = folder
        self.lease_ttl_s = lease_ttl_s
        self._trainer_options = trainer_options
        self._num_ranks = 1
        self.runners = tuple(f"runner-{n}" for n in range(1, num_runners + 1))
        self._port = _free_port() if num_runners else 0  # runners know one address of the server
        self.samplers = ("sampler", *(f"sampler-{n}" for n in range(2, num_samplers + 1)))
        self._sabotages: tuple[str, ...] = ()
        self._url = ""
        self.zygote = Zygote(folder / "zygote.log")
        self._supervisor = Supervisor(self._begin, lambda pid: not is_alive(pid), _LOOK_EVERY_S)

    def start(self) -> Box:
        self._make_database()
        for kind in (*KINDS, *self.samplers[1:], *self.runners):
            self.spawn(kind)
            if kind == "postgres":
                self.query("select 1")
        self._supervisor.start()
        self.wait_for(self._is_ready, "the box is ready")
        return self

    def close(self) -> None:
        self._supervisor.close()
        self.database.close()
        ranks = self.ranks()
        self.zygote.close()
        for pid in ranks:  # rank 0 outlives its agent for as long as it takes to hand back
            send(pid, signal.SIGKILL)

    @property
    def url(self) -> str:
        return self._url

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def deaths(self) -> list[Death[int]]:
        """That the supervisor has found."""
        return self._supervisor.deaths

    def spawn(self, kind: str) -> int:
        """Start a process of this kind, which the supervisor keeps from now on. The one before goes on, if it can."""
        return self._supervisor.spawn(kind)

    def forget_blobs(self) -> None:
        """Between runs: blobs are named by their content, so a program that runs again would not write any."""
        shutil.rmtree(self.folder / "blobs", ignore_errors=True)

    def break_promise(self, name: str | None, *, at_once: bool = True) -> None:
        """Trainers from now on are sabotaged (`tests.chaos.sabotage`), or None: are as they should be. Not at_once: the
        one that there is ends by itself."""
        self._sabotages = (name,) if name in SABOTAGES else ()
        if at_once:
            send(self.pid("trainer"), signal.SIGKILL)

    def pid(self, kind: str) -> int:
        return self._supervisor.process(kind)

    def ranks(self) -> list[int]:
        """Of the trainer, by rank; itself if it computes alone. Fewer while it starts or ends."""
        with self._supervisor.lock:
            pid = self.pid("trainer")
            return children_of(pid) if self._num_ranks > 1 else [pid]

    @property
    def num_ranks(self) -> int:
        """That the trainer has, or will have."""
        return self._num_ranks

    def plan(self, kind: str) -> Path:
        """The file in which a plane of this kind looks for the fault that it shall have."""
        return self.folder / f"fault-{kind}"

    def seen(self, kind: str) -> set[str]:
        """The points that planes of this kind have reached."""
        path = self.folder / f"seen-{kind}"
        return set(path.read_text().split()) if path.exists() else set()

    def backends(self) -> list[int]:
        """PostgreSQL's own processes but the first."""
        return children_of(self.pid("postgres"))

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.dsn)

    def log(self, kind: str) -> str:
        """What all processes of a kind have logged."""
        return (self.folder / f"{kind}.log").read_text()

    def logs(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-2500:]}" for p in sorted(self.folder.glob("*.log")))

    def _make_database(self) -> None:
        postgres = EmbeddedPostgres(lay_out(self.folder / "postgres"))
        self.database_url = postgres.url
        self.dsn = psycopg_dsn(normalise_url(postgres.url))
        self._prepare(postgres.url, "chaos")
        self._postgres_request = {
            "command": postgres.command,
            "user": postgres.user,
            "folder": str(self.folder / "postgres"),
        }
        postgres.stop()

    def _begin(self, kind: str) -> int:
        request: dict[str, Any] = self._postgres_request if kind == "postgres" else self._plane(kind)
        log = str(self.folder / f"{kind}.log")
        return self.zygote.fork(kind=kind.partition("-")[0], log=log, **request)

    def _plane(self, kind: str) -> dict[str, Any]:
        store = {"database_url": self.database_url}
        files = {"blob_store_url": self._blob_store_url}
        checkpoints = {"checkpoint_store_url": f"file://{self.checkpoints}"}
        base = {"base_slug": BASE, "threads": 1}
        if kind == "server":
            port = self._port or _free_port()
            self._url = f"http://127.0.0.1:{port}"
            settings = {**store, **files, "sampler_token": self.sampler_token, "port": port}
        elif kind == "trainer":
            own = {"lease_ttl_s": self.lease_ttl_s, "device": "cpu", "snapshot_every_steps": 3}
            chosen = self._trainer_options()
            settings = {**store, **files, **checkpoints, **base, **own, **chosen}
            self._num_ranks = chosen.get("gpus", 1)
        elif kind in self.runners:
            folder = self.folder / kind
            settings = {"server": self.url, "key": self.runner_key, "folder": str(folder), "slots": RUNNER_SLOTS}
        else:
            listen = {"token": self.sampler_token, "host": "127.0.0.1", "port": 0, "advertise": None}
            settings = {**store, **checkpoints, **base, **listen, "backend": "local", "seed": 0}
            if self.runners:
                settings["backend_options"] = {"max_running": 1}  # logits do not depend on what is sampled beside
        environment = {faults.PLAN: f"@{self.plan(kind)}", faults.SEEN: str(self.folder / f"seen-{kind}")}
        return {
            "settings": settings,
            "environment": environment,
            "sabotages": self._sabotages if kind == "trainer" else (),
        }

    def _is_ready(self) -> bool:
        try:
            bases = httpx.get(f"{self.url}/readyz", timeout=2.0, trust_env=False).json()["bases"]
        except (httpx.HTTPError, ValueError):
            return False
        return any(base["trainers"] and base["samplers"] for base in bases)


def freeze_all(pid: int) -> list[int]:
    """SIGSTOP to a process and its children; who was frozen."""
    family = [pid, *children_of(pid)]
    for each in family:
        send(each, signal.SIGSTOP)
    return family


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
