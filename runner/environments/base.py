"""The port between a runner's worker and whatever builds, starts and isolates environments."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from wire.placements import EnvironmentSpec

Log = Callable[[str], None]
"""Takes one line. Called on the event loop that the call belongs to."""


class BuildFailed(Exception):
    """The code as it was deployed cannot be built or served. Its text is a sentence for who deployed it; another
    attempt would fail in the same way."""


class StartFailed(Exception):
    """A session did not come up. Its text is a sentence; of an environment that ended, with the last line of its
    stderr."""


class Session(Protocol):
    """One running environment, that serves one rollout and shares no memory, file or process with another."""

    @property
    def address(self) -> str:
        """`tcp://127.0.0.1:PORT`: a listener in the runner's own network namespace, for the SDK's `Runtime(…)`.
        Whoever can reach loopback here can reach it: agents do."""
        ...

    @property
    def ended(self) -> asyncio.Future[str]:
        """Done when it ended without `stop`, with a sentence that says why."""
        ...

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection to its control port, for a tunnel. Raises OSError when the environment has ended."""
        ...

    async def stop(self) -> None:
        """End all of its processes, and remove its files. When this returns, none is left. May be repeated."""
        ...


class Environments(Protocol):
    """Builds versions of environments, and starts sessions of them. Belongs to one event loop; never blocks it."""

    @property
    def isolation(self) -> str:
        """Name of what keeps environments apart here: a key of `runner.environments.isolation.ISOLATIONS`."""
        ...

    async def build(self, spec: EnvironmentSpec, archive: Path | None, log: Log, timeout_s: float) -> dict[str, Any]:
        """Make a version ready to start and serve it once; returns its manifest: `tasks`, a list of {`id`,
        `description`, `args`}, `capabilities`, a list of {`name`, `protocol`}, and the declared name and version under
        `env`.

        `archive`: the file whose digest is `spec.archive_digest`; None where the spec has none. What is not in place
        yet is made under a name of its own and moved there when it is whole. A version of the same dependencies uses
        the same virtual environment, which is made once at a time. Cancelling it ends what it started.

        Raises BuildFailed, also after `timeout_s`.
        """
        ...

    async def start(
        self,
        spec: EnvironmentSpec,
        archive: Path | None,
        session_id: str,
        team: str,
        log: Log,
        trace_id: str | None = None,
    ) -> Session:
        """A session that answers. What `build` made is made again if it is not here. `session_id`: hex, dashed or not.
        `team`: whose key its model calls are made with. `trace_id`: of the rollout that they are made for; without
        one, it can make none. Cancelling it ends what it started.

        Raises StartFailed.
        """
        ...

    async def close(self) -> None:
        """End all sessions, and every process that was started for them."""
        ...
