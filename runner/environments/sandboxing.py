"""Describes the sandboxes of this runner: what each sees, as whom it runs, and what it may take."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runner.environments.cgroups import Cgroup, find_cgroups
from runner.environments.fork_servers import OURS, OURS_INSIDE, own_code, serving_arguments
from runner.environments.isolation.base import Bind, Isolation, Limits, Network, Sandbox, SessionPlace
from runner.environments.settings import EnvironmentSettings
from runner.environments.version import Version

SOURCE_INSIDE, VENV_INSIDE = "/environment", "/venv"
GATEWAY_PORT = 8799
"""Of the gateway on a session's own loopback."""
COPIED_BYTES = 32 << 20
"""A source of at most this size is copied for each session, which may write next to its code then."""
_BUILD_LIMITS = Limits(memory_bytes=8 << 30, disk_bytes=16 << 30, processes=512)
_BUILDER, _FIRST_ROOT, _NUM_ROOTS, _FIRST_SESSION, _NUM_SESSIONS = 0, 1, 9_999, 10_000, 60_000


def own_prefixes() -> tuple[Path, ...]:
    """Folders of the runner's own Python."""
    return tuple(dict.fromkeys((Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve())))


def own_python() -> Path:
    """The runner's own, under the name that sandboxes see."""
    return Path(sys.prefix).resolve() / "bin" / Path(sys.executable).name


class Sandboxes:
    """Makes descriptions; hands out numbers and user ids, each to one sandbox or session at a time."""

    def __init__(self, folder: Path, settings: EnvironmentSettings, isolation: Isolation) -> None:
        self.folder = folder
        self._scratch = folder / "scratch"
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        self._settings, self.isolation = settings, isolation
        self._ours = OURS_INSIDE if isolation.has_own_root else str(self._link_ours())
        self._has_users = isolation.takes_user_ids()
        self._roots = itertools.cycle(range(_FIRST_ROOT, _FIRST_ROOT + _NUM_ROOTS))
        self._sessions = itertools.cycle(range(_NUM_SESSIONS))
        self._taken: set[int] = set()
        self.cgroups = find_cgroups() if isolation.name != "none" else None
        self.limits = Limits(
            memory_bytes=int(settings.memory_bytes),
            disk_bytes=int(settings.disk_bytes),
            processes=settings.processes,
        )

    @property
    def network(self) -> Network:
        return "host" if self._settings.network == "all" else "none"

    @property
    def builder(self) -> int | None:
        """The user who builds, and whose the cache of packages is."""
        return self._settings.user_ids + _BUILDER if self._has_users else None

    def make_cgroup(self, name: str, limits: Limits) -> Cgroup | None:
        """None where none can be made: the session is looked at instead."""
        try:
            return None if self.cgroups is None else self.cgroups.make(name, limits)
        except OSError:
            return None

    def make_scratch(self, within: str = "") -> Path:
        """A new folder for what a sandbox writes where it has no file system of its own."""
        folder = Path(within or self._scratch) / uuid.uuid4().hex
        folder.mkdir()
        return folder

    def of_version(self, version: Version) -> Sandbox:
        """A fork server's. Its limits hold for the server itself; all of its sessions are forked there."""
        isolation = self.isolation
        binds = [Bind(str(prefix), str(prefix)) for prefix in _outside_usr(own_prefixes())]
        if version.venv is not None:
            binds.append(Bind(str(version.venv), VENV_INSIDE))
        binds += own_code(("runner", "wire") if version.keeps_ours else ("runner",))
        if not isolation.has_own_root:
            binds.append(Bind(self._ours, self._ours))
        if not version.keeps_ours:
            binds.append(Bind(str(version.source), SOURCE_INSIDE))
        scratch = "" if isolation.has_own_root else str(self.make_scratch())
        first = self._settings.user_ids + _FIRST_SESSION
        return Sandbox(
            isolation=isolation.name,
            arguments=serving_arguments(self._python(version), isolation.name, self._ours),
            variables={**self._variables(version, scratch), **version.variables},
            folder="/",
            limits=self.limits,
            binds=binds,
            scratch=scratch,
            network=self.network,
            user_id=self._settings.user_ids + next(self._roots) if self._has_users else None,
            session_user_ids=(first, _NUM_SESSIONS) if self._has_users else (0, 0),
        )

    def of_build(
        self,
        arguments: Sequence[str],
        variables: dict[str, str],
        binds: Sequence[Bind],
        prefixes: Sequence[Path],
        folder: str,
        scratch: str,
    ) -> Sandbox:
        """Of a program that makes a virtual environment. `scratch`: where it has no /tmp of its own."""
        return Sandbox(
            isolation=self.isolation.name,
            arguments=list(arguments),
            variables={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "HOME": scratch or "/tmp",
                "TMPDIR": scratch or "/tmp",
                **variables,
            },
            folder=folder,
            limits=_BUILD_LIMITS,
            binds=[*(Bind(str(prefix), str(prefix)) for prefix in _outside_usr(prefixes)), *binds],
            scratch=scratch,
            network="none",
            user_id=self.builder,
            is_build=True,
        )

    def of_session(
        self, version: Version, sandbox: Sandbox, copies_source: bool, port: int, variables: dict[str, str]
    ) -> SessionPlace:
        """A new session's in the sandbox of its version. `release` gives back what it takes."""
        number = next(number for number in self._sessions if number not in self._taken)
        self._taken.add(number)
        isolation = self.isolation
        if version.keeps_ours:
            source = f"{self._ours}/{version.source.relative_to(OURS).as_posix()}"
        else:
            source = SOURCE_INSIDE if isolation.has_own_root else str(version.source)
        scratch = "" if isolation.has_own_root else str(self.make_scratch(sandbox.scratch))
        served = f"{scratch}/source" if scratch and copies_source else source
        if scratch:
            variables = {**variables, "HOME": f"{scratch}/home", "TMPDIR": f"{scratch}/tmp"}
        return SessionPlace(
            number=number,
            source=source,
            target=f"{served}/{version.target.path}",
            name=version.target.declared_name,
            limits=self._limits_of(version),
            port=port,
            copies_source=copies_source,
            ours=self._ours,
            keeps_ours=version.keeps_ours,
            variables=variables,
            scratch=scratch,
            readable=[bind.source for bind in sandbox.binds] if scratch else [],
            network=self.network,
            user_id=self._settings.user_ids + _FIRST_SESSION + number if self._has_users else None,
        )

    def _link_ours(self) -> Path:
        """A folder of our packages alone: where they lie, there may be more."""
        folder = self.make_scratch()
        for name in ("runner", "wire"):
            (folder / name).symlink_to(OURS / name)
        return folder

    def close(self) -> None:
        """Every sandbox has ended."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self.cgroups is not None:
            self.cgroups.close()

    def _limits_of(self, version: Version) -> Limits:
        """What it asks for, up to the operator's."""
        asked = version.asked
        memory = min(asked.memory_bytes or self.limits.memory_bytes, self.limits.memory_bytes)
        return replace(self.limits, memory_bytes=memory, cpus=asked.cpus)

    def release(self, place: SessionPlace) -> None:
        """None of its processes is left."""
        if place.scratch:
            shutil.rmtree(place.scratch, ignore_errors=True)
        self._taken.discard(place.number)

    def _python(self, version: Version) -> str:
        if version.venv is None:
            return str(own_python())
        return f"{VENV_INSIDE if self.isolation.has_own_root else version.venv}/bin/python"

    def _variables(self, version: Version, scratch: str) -> dict[str, str]:
        """None of the runner's own: what a process needs, and where its model calls go. They need a key to be made at
        all; the true one is put in on the way."""
        gateway = f"http://127.0.0.1:{GATEWAY_PORT}"
        return {
            "PATH": f"{os.path.dirname(self._python(version))}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": scratch or "/home/user",
            "TMPDIR": scratch or "/tmp",
            "USER": "user",
            "PYTHONUNBUFFERED": "1",
            "HUD_API_KEY": "headway",
            "HUD_GATEWAY_URL": gateway,
            "HUD_API_URL": gateway,
            "HUD_TELEMETRY_ENABLED": "false",
            "HUD_CLI_ANALYTICS_ENABLED": "false",
            "OPENBLAS_NUM_THREADS": "1",
        }


def _outside_usr(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if not path.is_relative_to("/usr")]
