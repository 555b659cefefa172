"""Makes versions of environments ready: unpacks their code, finds what to serve, installs their packages."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from runner.environments.archives import unpack
from runner.environments.base import BuildFailed, Log
from runner.environments.builtin import BUILTIN
from runner.environments.dependencies import read_dependencies
from runner.environments.fork_servers import OURS
from runner.environments.targets import Target, find_target
from runner.environments.version import Asked, Version
from runner.environments.virtual_environments import VirtualEnvironments
from wire.placements import EnvironmentSpec

T = TypeVar("T")


class Versions:
    """Makes versions ready, each piece once at a time, and keeps what can be used again."""

    def __init__(self, folder: Path, venvs: VirtualEnvironments) -> None:
        self._sources = folder / "sources"
        self._sources.mkdir(parents=True, exist_ok=True)
        for half_made in self._sources.glob(".*"):
            shutil.rmtree(half_made, ignore_errors=True)
        self._venvs = venvs
        self._unpacking: dict[str, asyncio.Lock] = {}

    async def make_ready(
        self, spec: EnvironmentSpec, archive: Path | None, log: Log, no_cache: bool = False
    ) -> Version:
        """Unpacked, with its packages. Raises BuildFailed."""
        if spec.source == "builtin":
            return self._builtin(spec)
        if spec.archive_digest is None or archive is None:
            raise BuildFailed(f"version {spec.version} of {spec.name} has no archive")
        source = await self._unpacked(spec.archive_digest, archive)
        target = await _off_loop(log, partial(find_target, source, spec.name, spec.declared_name))
        dependencies = await _off_loop(log, partial(read_dependencies, source, spec.archive_digest))
        variables = {**target.variables, **spec.variables}
        if dependencies.are_ours:
            venv = None
            log("no packages beside hud: the runner's own Python serves it")
        else:
            venv = await self._venvs.ready(
                dependencies, source, {**spec.build_args, **spec.build_secrets}, log, no_cache
            )
        return Version(source, target, venv, False, variables, Asked.of(spec.runtime_config))

    def in_use(self, version: Version) -> None:
        """Mark it as used now, so that it is among the last to be removed."""
        for path in () if version.keeps_ours else version.folders:
            os.utime(path)

    def kept(self) -> list[Path]:
        """Folders that could be made again."""
        return [*self._sources.iterdir(), *self._venvs.kept()]

    def _builtin(self, spec: EnvironmentSpec) -> Version:
        module = BUILTIN.get(spec.name)
        if module is None:
            raise BuildFailed(f"this runner has no built-in environment {spec.name}; it needs a newer Headway")
        path = OURS.joinpath(*module.split(".")).with_suffix(".py")
        target = Target(path.name, spec.declared_name)
        return Version(path.parent, target, None, True, dict(spec.variables))

    async def _unpacked(self, digest: str, archive: Path) -> Path:
        if not digest.isalnum():
            raise BuildFailed("the archive's digest is none")
        folder = self._sources / digest
        async with self._unpacking.setdefault(digest, asyncio.Lock()):
            if not folder.exists():
                await asyncio.to_thread(_unpack_whole, archive, folder)
        return folder


def _unpack_whole(archive: Path, folder: Path) -> None:
    """Under another name, until it is whole."""
    half_made = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    half_made.mkdir()
    try:
        unpack(archive, half_made)
        half_made.chmod(0o755)
        half_made.rename(folder)
    except BaseException:
        shutil.rmtree(half_made, ignore_errors=True)
        raise


async def _off_loop(log: Log, work: Callable[[Log], T]) -> T:
    """In a thread; its lines are logged here."""
    lines: list[str] = []
    try:
        return await asyncio.to_thread(work, lines.append)
    finally:
        for line in lines:
            log(line)
