"""A whole Headway on this machine: `headway up` as a process, started the way a user starts it or forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from cli.box.children import Process
from cli.box.fork_server import can_fork_planes
from tests.conftest import heed_interrupts
from tests.e2e.forked_up import environments_of, fork_headway

START_TIMEOUT_S = 180.0
_ENVIRONMENT = {"HEADWAY_EVALUATION_SETTLE_S": "2"}


class Box:
    """`headway up` on a data folder. `start` returns when the service is ready; state survives `stop`."""

    def __init__(
        self,
        data_dir: Path,
        base: Path,
        *args: str,
        start_timeout_s: float = START_TIMEOUT_S,
        slug: str = "tiny-arith",
        is_forked: bool = False,
    ) -> None:
        """is_forked: from a process that has imported everything (`tests.e2e.forked_up`)."""
        self._is_forked = is_forked and can_fork_planes()
        self.data_dir = data_dir
        self._base = base
        self._slug = slug
        self._args = args
        self._start_timeout_s = start_timeout_s
        self.process: Process | None = None
        self.env: dict[str, str] = {}
        self.admin_env: dict[str, str] = {}

    def start(self) -> Box:
        (self.data_dir / "env").unlink(missing_ok=True)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cli", "up", "--data-dir", str(self.data_dir), "--port", "0"]
        command += ["--base", f"{self._slug}={self._base}", *self._args]
        environment = os.environ | _ENVIRONMENT
        with (self.data_dir / "up.log").open("ab") as log:
            if self._is_forked:
                self.process = fork_headway(command, environment, log.fileno())
            else:
                self.process = subprocess.Popen(
                    command, stdout=log, stderr=log, env=environment, preexec_fn=heed_interrupts
                )
        self._wait_until_ready()
        return self

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(60)
        self.process = None
        return status

    def kill(self, name: str) -> None:
        """SIGKILL one plane; `up` starts it again."""
        assert self.process is not None
        pgrep = ["pgrep", "-P", str(self.process.pid), "-f", f"cli {name} .*"]
        pids = subprocess.run(pgrep, capture_output=True, text=True, check=False).stdout.split()
        assert pids, f"no {name} is running"
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)

    def environments(self) -> list[dict[str, str]]:
        """Those of its planes."""
        if self._is_forked:
            return [json.loads(path.read_text()) for path in environments_of(self.data_dir).iterdir()]
        assert self.process is not None
        pids = subprocess.check_output(["pgrep", "-P", str(self.process.pid)], text=True).split()
        entries = [Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in pids]
        return [dict(entry.split("=", 1) for entry in each if "=" in entry) for each in entries]

    @property
    def url(self) -> str:
        return self.env["HUD_API_URL"]

    @property
    def headers(self) -> dict[str, str]:
        """Of a member, as the SDK sends them."""
        return {"Authorization": f"Bearer {self.env['HUD_API_KEY']}"}

    @property
    def admin_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin_env['HUD_API_KEY']}"}

    def call(self, method: str, path: str, body: Any = None, timeout: float = 120.0, *, admin: bool = False) -> Any:
        """The JSON answer; raises AssertionError with the body on any other status than 2xx."""
        headers = self.admin_headers if admin else self.headers
        reply = httpx.request(method, self.url + path, json=body, headers=headers, timeout=timeout, trust_env=False)
        assert reply.is_success, f"{reply.status_code} {reply.text}"
        return reply.json()

    def base_id(self) -> str:
        return next(m["id"] for m in self.call("GET", "/v2/models")["items"] if m["model_name"] == self._slug)

    def fork(self, name: str, source_id: str | None = None) -> str:
        body = {"source_model_id": source_id or self.base_id(), "name": name}
        return self.call("POST", "/v2/models/fork", body)["id"]

    def logs(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.data_dir.glob("**/*.log")))

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"headway up ended\n{self.logs()}"
            if "Headway is up" in (self.data_dir / "up.log").read_text() and (self.data_dir / "env").exists():
                self.env = _exports(self.data_dir / "env")
                self.admin_env = _exports(self.data_dir / "admin-env")
                if self._answers():
                    return
            time.sleep(0.1)
        raise AssertionError(f"headway up was not ready in {self._start_timeout_s} s\n{self.logs()}")

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url + "/readyz", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


def open_to_others(data_dir: Path) -> list[Path]:
    """What others than its owner may use of a data folder. What lies in `runner` is for the users of sandboxes, who are
    let in by mounts: nobody else gets through the folder itself."""
    paths = [data_dir, *data_dir.rglob("*")]
    return [p for p in paths if p.lstat().st_mode & 0o077 and data_dir / "runner" not in p.parents]


def _exports(path: Path) -> dict[str, str]:
    """Without those that a shell would have to expand."""
    named = dict(line.removeprefix("export ").split("=", 1) for line in path.read_text().splitlines())
    return {name: value for name, value in named.items() if "$" not in value}


def point_sdk_at(box: Box) -> None:
    """For the SDK of this process, which other tests may have imported before: it reads its variables only then."""
    from hud.settings import settings

    for plane in ("api", "rl", "gateway", "telemetry", "runtime", "web"):
        setattr(settings, f"hud_{plane}_url", box.url)
    settings.api_key = box.env["HUD_API_KEY"]
