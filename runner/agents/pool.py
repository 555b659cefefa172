"""The agent processes of a runner: started when they are needed, filled, replaced after a while, ended when idle."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import structlog

from runner.agents.host_process import HostDied, HostProcess
from runner.agents.messages import Drive, Driven

__all__ = ["AgentPool", "HostDied", "PoolSettings"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """rollouts_per_process: at a time. most_rollouts: after so many, a process takes no more and ends: whatever the SDK
    keeps of each is freed. idle_s: one that drives nothing for so long ends. server_ca: by which they check the
    server's certificate, in place of the system's CAs."""

    rollouts_per_process: int = 64
    most_rollouts: int = 2000
    idle_s: float = 300.0
    server_ca: Path | None = None


@dataclass(eq=False, slots=True)
class _Host:
    """A process that is there or about to be. `num_driven`: counted from when a rollout chooses it."""

    process: asyncio.Task[HostProcess]
    num_driven: int = 0
    num_started: int = 0
    idle_since: float = 0.0

    @property
    def is_dead(self) -> bool:
        if not self.process.done():
            return False
        return self.process.cancelled() or self.process.exception() is not None or self.process.result().is_dead


class AgentPool:
    """Belongs to one event loop. A process is of one key, so of one team."""

    def __init__(self, server: str, folder: Path, settings: PoolSettings) -> None:
        self._server, self._folder, self._settings = server, folder, settings
        self._hosts: dict[str, list[_Host]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._tending: asyncio.Task[None] | None = None

    async def drive(self, team: str, key: str, drive: Drive) -> Driven:
        """Carry a rollout out in a process of this key. Cancelling this stops it before it returns. Raises
        HostDied."""
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend())
        host = self._host_for(key)
        host.num_driven += 1
        host.num_started += 1
        try:
            process = await asyncio.shield(host.process)
            return await process.drive(drive)
        finally:
            host.num_driven -= 1
            host.idle_since = asyncio.get_running_loop().time()
            self._retire(key, host)

    async def close(self) -> None:
        """End all processes."""
        if self._tending is not None:
            self._tending.cancel()
        for host in [host for hosts in self._hosts.values() for host in hosts]:
            self._end(host)
        self._hosts.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _host_for(self, key: str) -> _Host:
        """The fullest that takes another; so that the others become idle."""
        hosts = self._hosts.setdefault(key, [])
        able = [host for host in hosts if self._takes_another(host)]
        if able:
            return max(able, key=lambda host: host.num_driven)
        host = _Host(asyncio.create_task(HostProcess.start(self._server, key, self._folder, self._settings.server_ca)))
        hosts.append(host)
        return host

    def _takes_another(self, host: _Host) -> bool:
        settings = self._settings
        is_full = host.num_driven >= settings.rollouts_per_process or host.num_started >= settings.most_rollouts
        return not is_full and not host.is_dead

    def _retire(self, key: str, host: _Host) -> None:
        is_used_up = host.num_started >= self._settings.most_rollouts and host.num_driven == 0
        if (is_used_up or host.is_dead) and host in self._hosts.get(key, ()):
            self._remove(key, host)

    def _remove(self, key: str, host: _Host) -> None:
        self._hosts[key].remove(host)
        if not self._hosts[key]:
            del self._hosts[key]
        self._end(host)

    def _end(self, host: _Host) -> None:
        async def end() -> None:
            try:
                process = await host.process
            except HostDied:
                return
            await process.close()

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _tend(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(5.0, self._settings.idle_s / 2))
            for key, hosts in list(self._hosts.items()):
                for host in list(hosts):
                    if host.num_driven == 0 and loop.time() - host.idle_since > self._settings.idle_s:
                        self._remove(key, host)
