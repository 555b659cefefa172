"""Environments as processes of this machine: a fork server for each version, sandboxes around both."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.environments.base import BuildFailed, Log, Session, StartFailed
from runner.environments.caches import evict
from runner.environments.containers import Containers, find_engine
from runner.environments.control import read_manifest
from runner.environments.gateway import GatewayRelay
from runner.environments.hints import hints
from runner.environments.sandboxing import Sandboxes
from runner.environments.served import ServedVersion
from runner.environments.settings import EnvironmentSettings, Gateway
from runner.environments.version import Version
from runner.environments.versions import Versions
from runner.environments.virtual_environments import VirtualEnvironments
from wire.placements import EnvironmentSpec

_MAX_LOG_LINES = 20_000


class LocalEnvironments:
    """`Environments` of this machine."""

    def __init__(self, folder: Path, settings: EnvironmentSettings, gateway: Gateway, sandboxes: Sandboxes) -> None:
        self._settings, self._gateway, self._sandboxes = settings, gateway, sandboxes
        self._venvs = VirtualEnvironments(folder, sandboxes, settings.index_hosts)
        self._versions = Versions(folder, self._venvs)
        self._served: dict[tuple[str, ...], ServedVersion] = {}
        self._making: dict[tuple[str, ...], asyncio.Lock] = {}
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def isolation(self) -> str:
        return self._sandboxes.isolation.name

    async def build(self, spec: EnvironmentSpec, archive: Path | None, log: Log, timeout_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._build(spec, archive, _bounded(log))
        except TimeoutError:
            raise BuildFailed(f"the build took longer than {timeout_s:.0f} s") from None

    async def start(
        self,
        spec: EnvironmentSpec,
        archive: Path | None,
        session_id: str,
        team: str,
        log: Log,
        trace_id: str | None = None,
    ) -> Session:
        self._sweeping = self._sweeping or asyncio.create_task(self._sweep())
        if spec.source == "image":
            return await self._start_container(spec, log)
        served = await self._serve(spec, archive, log)
        return await served.session(team, trace_id, log)

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        await asyncio.gather(*(served.close() for served in self._served.values()))
        self._served.clear()
        await asyncio.to_thread(self._sandboxes.close)

    async def _build(self, spec: EnvironmentSpec, archive: Path | None, log: Log) -> dict[str, Any]:
        if spec.source == "image":
            return await self._build_image(spec, log)
        version = await self._versions.make_ready(spec, archive, log, spec.no_cache)
        log("starting it once")
        served = self._new(version)
        try:
            session = await served.session("", None, log)
            manifest = await read_manifest(session)
            session.set_log(lambda line: None)
            await session.stop()
        except BaseException as failed:
            await served.close()
            if isinstance(failed, StartFailed):
                raise BuildFailed(str(failed)) from failed
            raise
        await self._keep(spec, served)
        log(f"it offers {len(manifest['tasks'])} task(s), {len(manifest['capabilities'])} capability(ies)")
        for hint in await asyncio.to_thread(hints, version.source, version.target.path, manifest):
            log(hint)
        return manifest

    async def _build_image(self, spec: EnvironmentSpec, log: Log) -> dict[str, Any]:
        containers = await self._containers()
        await containers.pull(spec, log)
        log("starting it once")
        try:
            session = await containers.start(spec, log)
        except StartFailed as failed:
            raise BuildFailed(str(failed)) from failed
        try:
            return await read_manifest(session)
        finally:
            await session.stop()

    async def _start_container(self, spec: EnvironmentSpec, log: Log) -> Session:
        try:
            containers = await self._containers()
        except BuildFailed as failed:
            raise StartFailed(str(failed)) from failed
        return await containers.start(spec, log)

    async def _containers(self) -> Containers:
        return Containers(await find_engine(), self._sandboxes.limits, self._settings.start_timeout_s)

    async def _serve(self, spec: EnvironmentSpec, archive: Path | None, log: Log) -> ServedVersion:
        """Of the same build with the same variables, there is one."""
        key = _key(spec)
        async with self._making.setdefault(key, asyncio.Lock()):
            served = self._served.get(key)
            if served is None or not served.is_usable:
                if served is not None:
                    await served.close()
                try:
                    version = await self._versions.make_ready(spec, archive, log)
                except BuildFailed as failed:
                    raise StartFailed(str(failed)) from failed
                served = self._served[key] = self._new(version)
        self._versions.in_use(served.version)
        return served

    async def _keep(self, spec: EnvironmentSpec, served: ServedVersion) -> None:
        """Its first session will not have to wait for the SDK."""
        self._sweeping = self._sweeping or asyncio.create_task(self._sweep())
        async with self._making.setdefault(_key(spec), asyncio.Lock()):
            before = self._served.pop(_key(spec), None)
            self._served[_key(spec)] = served
        if before is not None:
            await before.close()

    def _new(self, version: Version) -> ServedVersion:
        return ServedVersion(version, self._sandboxes, self._settings, self._relay)

    def _relay(self) -> GatewayRelay:
        return GatewayRelay(self._gateway)

    async def _sweep(self) -> None:
        """Ends what nobody has used for a while, and makes room."""
        while True:
            await asyncio.sleep(min(30.0, self._settings.idle_s / 2))
            for key, served in list(self._served.items()):
                if served.is_idle(self._settings.idle_s):
                    del self._served[key]
                    self._making.pop(key, None)
                    with suppress(Exception):
                        await served.close()
            in_use = {path for served in self._served.values() for path in served.version.folders}
            kept = self._versions.kept()
            await asyncio.to_thread(evict, kept, in_use, self._settings.cache_bytes, time.time())


def _bounded(log: Log) -> Log:
    """What a build writes is kept: not without end."""
    left = itertools.count(_MAX_LOG_LINES, -1)

    def take(line: str) -> None:
        number = next(left)
        if number > 0:
            log(line)
        elif number == 0:
            log(f"(more than {_MAX_LOG_LINES} lines: the rest is left out)")

    return take


def _key(spec: EnvironmentSpec) -> tuple[str, ...]:
    """A change of its variables makes another fork server: they are in its environment."""
    return (str(spec.build_id), *(f"{name}={value}" for name, value in sorted(spec.variables.items())))
