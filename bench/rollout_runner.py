"""A runner whose environments sleep and answer: the real worker and the real agent processes of the SDK around an
implementation of the environments port that starts nothing.

    python -m bench.rollout_runner SERVER FOLDER SLOTS AGENTS < KEY

AGENTS: `sdk`: agent processes play the rollouts against `bench.sleeping`, of which a runner serves one for all. `bare`:
nothing but the calls that a rollout makes: a chat under its Trace-Id, then its exit; so that the queue is what is
measured. Ends when its stdin closes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from runner.agents.pool import AgentPool, PoolSettings
from runner.environments.base import Log, Session
from runner.worker.api import ServerApi
from runner.worker.archives import Archives
from runner.worker.carrying import Carried, Carrier, HandBack, Reports
from runner.worker.rollouts import Rollouts
from runner.worker.worker import AgentKeys, Worker, WorkerSettings
from wire.placements import EnvironmentSpec, Placement, Registration
from wire.process.tokens import Tokens

_ROLLOUTS_PER_PROCESS = 256
_DRAIN_S = 25.0


class SharedSession:
    """A session of the one process that serves all of this runner's rollouts."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See Session."""
        host, port = self.address.removeprefix("tcp://").split(":")
        return await asyncio.open_connection(host, int(port))

    async def stop(self) -> None:
        """See Session."""


class SleepingEnvironments:
    """See Environments: one process, started when it is first needed."""

    isolation = "none"

    def __init__(self) -> None:
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._address = ""

    async def build(self, spec: EnvironmentSpec, archive: Path | None, log: Log, timeout_s: float) -> dict[str, Any]:
        """See Environments."""
        raise NotImplementedError

    async def start(
        self,
        spec: EnvironmentSpec,
        archive: Path | None,
        session_id: str,
        team: str,
        log: Log,
        trace_id: str | None = None,
    ) -> Session:
        """See Environments."""
        async with self._starting:
            if self._process is None:
                await self._serve()
        return SharedSession(self._address)

    async def close(self) -> None:
        """See Environments."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    async def _serve(self) -> None:
        command = [sys.executable, "-m", "hud.environment.server", "bench/sleeping.py", "--env", "sleeping"]
        self._process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        self._address = f"tcp://127.0.0.1:{int(line.decode().partition('=')[2])}"


class BareRollouts:
    """Carries out rollouts without agents: two calls, with the agents' key, after a nap."""

    def __init__(self, server: str, keys: AgentKeys) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(base_url=server, timeout=120, limits=limits, trust_env=False)
        self._keys = keys

    async def carry_out(self, placement: Placement, reports: Reports) -> Carried:
        """See Carrier."""
        rollout = placement.rollout
        assert rollout is not None
        await reports.ready()
        await asyncio.sleep(max(0.0, rollout.args["until"] - time.time()))
        headers = {"Authorization": f"Bearer {placement.key}", "Trace-Id": rollout.trace_id.hex}
        chat = {"model": rollout.agent.config["model"], "messages": [{"role": "user", "content": "How was it?"}]}
        exited = {"status": "completed", "reward": 1.0}
        for path, body in (("/chat/completions", chat), (f"/v2/trace/{rollout.trace_id.hex}/exit", exited)):
            reply = await self._http.post(path, json=body, headers=headers)
            if reply.is_error:
                raise HandBack(f"{path}: {reply.status_code} {reply.text[:200]}")
        return Carried("completed")


async def main(server: str, folder: Path, slots: int, agents: str) -> None:
    """Until stdin closes."""
    keys, api = AgentKeys(), ServerApi(server, Tokens(sys.stdin.readline().strip()))
    environments = SleepingEnvironments()
    pool = AgentPool(server, folder / "agents", PoolSettings(_ROLLOUTS_PER_PROCESS))
    rollouts: Carrier = Rollouts(environments, pool) if agents == "sdk" else BareRollouts(server, keys)
    registration = Registration(host="bench", pid=os.getpid(), slots=slots, kinds=["rollout"], isolation="none")
    archives = Archives(folder / "archives", 2**30)
    worker = Worker(api, registration, WorkerSettings(slots, _DRAIN_S), {"rollout": rollouts}, archives, keys)
    stopping = asyncio.Event()
    asyncio.get_running_loop().run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: stopping.set())
    try:
        await worker.run(stopping)
    finally:
        await pool.close()
        await environments.close()
        await api.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
