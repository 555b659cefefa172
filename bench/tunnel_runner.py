"""A runner whose environments are a TCP server of their own that echoes whatever it gets.

    python -m bench.tunnel_runner SERVER PORT < KEY

PORT: of that server. Ends when its stdin closes.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import tempfile
from pathlib import Path

from bench.rollout_runner import SharedSession, SleepingEnvironments
from runner.environments.base import Log, Session
from runner.tunnels.doors import Doors
from runner.tunnels.listener import listening_for_tunnels
from runner.worker.api import ServerApi
from runner.worker.archives import Archives
from runner.worker.sessions import Sessions
from runner.worker.worker import AgentKeys, Worker, WorkerSettings
from wire.placements import EnvironmentSpec, Registration
from wire.process.tokens import Tokens


class EchoEnvironments(SleepingEnvironments):
    """See Environments: all sessions are the one server."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

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
        return SharedSession(f"tcp://127.0.0.1:{self._port}")


async def main(server: str, port: int, folder: Path) -> None:
    """Until stdin closes."""
    keys, doors, token = AgentKeys(), Doors(), secrets.token_hex()
    api = ServerApi(server, Tokens(sys.stdin.readline().strip()))
    listening = socket.create_server(("127.0.0.1", 0))
    sessions = Sessions(EchoEnvironments(port), doors)
    registration = Registration(
        host="bench",
        pid=os.getpid(),
        slots=64,
        kinds=["session"],
        isolation="none",
        url=f"ws://127.0.0.1:{listening.getsockname()[1]}",
        tunnel_token=token,
    )
    worker = Worker(api, registration, WorkerSettings(64, 25.0), {"session": sessions}, Archives(folder, 2**30), keys)
    stopping = asyncio.Event()
    asyncio.get_running_loop().run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: stopping.set())
    async with listening_for_tunnels(listening, token, doors):
        await worker.run(stopping)
    await api.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as kept:
        asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(kept)))
