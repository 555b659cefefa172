"""Planes of two releases on one database and one folder, each a process of its own."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.upgrades.last_release import ROOT

BASE = "tiny-arith"
_START_S, _END_S = 240.0, 60.0


class Plane:
    """A process of `headway`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int | None) -> None:
        self.process = process
        self.log = log
        self.url = f"http://127.0.0.1:{port}" if port else ""

    def stop(self) -> None:
        """As Kubernetes does. A server ends by the very signal, once it has answered."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(_END_S) in (0, -signal.SIGTERM), self.log.read_text()[-3000:]


class Fleet:
    """Calls go to the servers in rotation, in turn, as a Service has it. A call that is not answered well fails the
    test: nobody repeats it."""

    def __init__(self, folder: Path, database_url: str, old: Path) -> None:
        self.data_dir = folder
        self.database_url = database_url
        self._trees = {"old": old, "new": ROOT}
        self._environment = {
            **os.environ,
            "HEADWAY_DATABASE_URL": database_url,
            "HEADWAY_DATA_DIR": str(folder),
            "HEADWAY_SAMPLER_TOKEN": secrets.token_urlsafe(16),
            "HEADWAY_BASE": BASE,
            "HEADWAY_LOG_FORMAT": "json",
            "NO_PROXY": "127.0.0.1",
        }
        self.key = ""
        self.planes: list[Plane] = []
        self.rotation: list[Plane] = []
        self._turn = itertools.count()

    def run(self, release: str, *arguments: str) -> str:
        """A command that ends well; what it prints."""
        command = [sys.executable, "-m", "cli", *arguments]
        tree = self._trees[release]
        done = subprocess.run(command, env=self._of(tree), cwd=tree, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, release: str, plane: str, *arguments: str, **environment: str) -> Plane:
        tree = self._trees[release]
        port = _free_port() if plane in ("server", "sampler") else None
        listen = ["--port", str(port)] if port else []
        log = self.data_dir / f"{plane}-{release}-{len(self.planes)}.log"
        command = [sys.executable, "-m", "cli", plane, *listen, *arguments]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, env=self._of(tree) | environment, cwd=tree, stdout=out, stderr=out, start_new_session=True
            )
        self.planes.append(Plane(process, log, port))
        return self.planes[-1]

    def started(self, release: str, plane: str, *arguments: str, **environment: str) -> Plane:
        """Once it says that it is ready; a server is in rotation from then on."""
        begun = self.start(release, plane, *arguments, **environment)
        self.until(lambda: f"{plane}_ready" in begun.log.read_text(), begun)
        if plane == "server":
            self.rotation = [*self.rotation, begun]
        return begun

    def until(self, is_so: Callable[[], bool], plane: Plane | None = None) -> None:
        deadline = time.monotonic() + _START_S
        while not is_so():
            assert plane is None or plane.process.poll() is None, plane.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    @property
    def env(self) -> dict[str, str]:
        return {"HUD_API_KEY": self.key}

    @property
    def url(self) -> str:
        servers = self.rotation
        return servers[next(self._turn) % len(servers)].url

    def call(self, method: str, path: str, body: Any = None, timeout: float = 120.0) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        reply = httpx.request(method, self.url + path, json=body, headers=headers, timeout=timeout, trust_env=False)
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text}"
        return reply.json()

    def fork(self, name: str) -> str:
        models = self.call("GET", "/v2/models")["items"]
        source = next(model["id"] for model in models if model["model_name"] == BASE)
        return self.call("POST", "/v2/models/fork", {"source_model_id": source, "name": name})["id"]

    def logs(self) -> str:
        return "\n".join(f"== {plane.log.name}\n{plane.log.read_text()[-2000:]}" for plane in self.planes)

    def close(self) -> None:
        for plane in self.planes:
            with suppress(ProcessLookupError):
                os.killpg(plane.process.pid, signal.SIGKILL)
            plane.process.wait()

    def _of(self, tree: Path) -> dict[str, str]:
        return {**self._environment, "PYTHONPATH": str(tree)}


class Traffic:
    """Calls the fleet again and again, in a thread, until it is left. Raises there what a call raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None
        self.num_calls = 0

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._ending.wait(0.2):
                self._call()
                self.num_calls += 1
        except BaseException as failure:
            self._failure = failure


def _free_port() -> int:

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
