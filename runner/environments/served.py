"""One version being served: its fork server, its sessions, and those that wait, started, for the next to ask."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from runner.environments.base import Log, StartFailed
from runner.environments.fork_servers import ForkServer
from runner.environments.gateway import GatewayRelay
from runner.environments.isolation.base import Sandbox
from runner.environments.sandboxing import COPIED_BYTES, GATEWAY_PORT, Sandboxes
from runner.environments.sessions import Around, LocalSession
from runner.environments.settings import EnvironmentSettings
from runner.environments.version import Version
from runner.environments.watching import watch

_STARTS_AT_A_TIME = max(8, 4 * (os.cpu_count() or 1))


class ServedVersion:
    """`is_usable` until it is closed. Sessions that are warm belong to nobody yet: a team and a rollout are given to
    the relay of their model calls when they are asked for."""

    def __init__(
        self,
        version: Version,
        sandboxes: Sandboxes,
        settings: EnvironmentSettings,
        new_relay: Callable[[], GatewayRelay],
    ) -> None:
        self.version = version
        self._sandboxes, self._settings, self._new_relay = sandboxes, settings, new_relay
        asked = version.asked.start_timeout_s or settings.start_timeout_s
        self._start_timeout_s = min(asked, settings.start_timeout_s)
        self._server: ForkServer | None = None
        self._sandbox: Sandbox | None = None
        self._starting = asyncio.Lock()
        self._slots = asyncio.Semaphore(_STARTS_AT_A_TIME)
        self._copies: bool | None = None
        self._sessions: set[LocalSession] = set()
        self._relays: dict[LocalSession, GatewayRelay] = {}
        self._warm: list[LocalSession] = []
        self._warming: set[asyncio.Task[None]] = set()
        self._used_at = time.monotonic()
        self._asked = 0
        self.start_s: float | None = None
        """What the last session took to answer, without the fork server's own start."""
        self.is_usable = True

    async def session(self, team: str, trace_id: str | None, log: Log) -> LocalSession:
        """A warm one, or a new one. Raises StartFailed."""
        self._used_at = time.monotonic()
        self._asked += 1
        try:
            session = self._take_warm() or await self._start(log)
        finally:
            self._asked -= 1
        session.set_log(log)
        self._relays[session].belongs_to(team, trace_id)
        self._warm_up()
        return session

    def is_idle(self, idle_s: float) -> bool:
        """Whether it has had no session for so long."""
        in_use = self._asked or len(self._sessions) > len(self._warm)
        if in_use:
            self._used_at = time.monotonic()
        return not in_use and time.monotonic() - self._used_at > idle_s

    async def close(self) -> None:
        """Ends all its sessions and its fork server."""
        self.is_usable = False
        for task in self._warming:
            task.cancel()
        await asyncio.gather(*self._warming, return_exceptions=True)
        await asyncio.gather(*(session.stop() for session in list(self._sessions)))
        async with self._starting:
            if self._server is not None:
                await self._server.close()
                self._server = None
            self._release_sandbox()

    def _release_sandbox(self) -> None:
        if self._sandbox is not None and self._sandbox.scratch:
            shutil.rmtree(self._sandbox.scratch, ignore_errors=True)
        self._sandbox = None

    async def _start(self, log: Log) -> LocalSession:
        server = await self._running_server()
        async with self._slots:
            started = time.monotonic()
            session = await self._fork(server, log)
        self.start_s = time.monotonic() - started
        self._sessions.add(session)
        return session

    async def _fork(self, server: ForkServer, log: Log) -> LocalSession:
        if self._copies is None:
            num_bytes = await asyncio.to_thread(lambda: self.version.source_bytes)
            self._copies = not self.version.keeps_ours and num_bytes <= COPIED_BYTES
        if self._sandbox is None:
            raise StartFailed("the runner is ending")
        relay = self._new_relay()
        has_own_loopback = self._sandboxes.isolation.has_own_network and self._sandboxes.network == "none"
        port = GATEWAY_PORT if has_own_loopback else await relay.listen()
        url = f"http://127.0.0.1:{port}"
        variables = {"HUD_GATEWAY_URL": url, "HUD_API_URL": url}
        place = self._sandboxes.of_session(self.version, self._sandbox, self._copies, port, variables)
        cgroup = self._sandboxes.make_cgroup(f"session-{place.number}", place.limits)
        is_bounded = False

        async def entered(pid: int, listener: socket.socket | None) -> None:
            nonlocal is_bounded
            if cgroup is not None:
                with suppress(OSError):  # somebody removed it: the session is looked at instead
                    cgroup.add(pid)
                    is_bounded = True
            if listener is not None:
                await relay.serve(listener)

        def why_killed() -> str | None:
            if cgroup is None or not cgroup.ran_out_of_memory():
                return None
            return f"it took more than {place.limits.memory_bytes >> 20} MiB of memory"

        async def release() -> None:
            await relay.close()
            if cgroup is not None:
                await asyncio.to_thread(cgroup.remove)
            self._sandboxes.release(place)
            for session in [session for session, of in self._relays.items() if of is relay]:
                self._forget(session)

        around = Around(entered, release, self._sandboxes.isolation.has_own_processes, why_killed)
        session = await LocalSession.start(server, place, around, self._start_timeout_s, log)
        self._relays[session] = relay
        if not is_bounded or place.scratch:
            session.run_beside(watch(session, place.limits, place.scratch, is_bounded))
        return session

    async def _running_server(self) -> ForkServer:
        async with self._starting:
            if not self.is_usable:
                raise StartFailed("the runner is ending")
            if self._server is not None and not self._server.is_running:
                await self._server.close()
                self._server = None
            if self._server is None:
                self._release_sandbox()
                self._sandbox = self._sandboxes.of_version(self.version)
                self._server = await ForkServer.start(self._sandbox, self._settings.start_timeout_s)
            return self._server

    def _take_warm(self) -> LocalSession | None:
        while self._warm:
            session = self._warm.pop(0)
            if not session.ended.done():
                return session
        return None

    def _warm_up(self) -> None:
        """Start what is missing, if this version is slow."""
        if self.start_s is None or self.start_s < self._settings.slow_start_s:
            return
        missing = self._settings.warm_sessions - len(self._warm) - len(self._warming)
        for _ in range(missing):
            task = asyncio.create_task(self._add_warm())
            self._warming.add(task)
            task.add_done_callback(self._warming.discard)

    async def _add_warm(self) -> None:
        with suppress(StartFailed):  # whoever asks for a session next will see why
            self._warm.append(await self._start(lambda line: None))

    def _forget(self, session: LocalSession) -> None:
        self._relays.pop(session, None)
        self._sessions.discard(session)
        if session in self._warm:
            self._warm.remove(session)
