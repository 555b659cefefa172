"""Settings of the environments on a runner, with the options that give them."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from wire.process.options import Option

_GIB, _MIB = 1024**3, 1024**2


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where environments' own model calls go. `key_of`: the key of a team's agents on this runner, None: it has none
    at present. `verify`: by what its certificate is checked, as httpx takes it."""

    url: str
    key_of: Callable[[str], str | None]
    verify: ssl.SSLContext | bool = True


@dataclass(frozen=True, slots=True)
class EnvironmentSettings:
    """How environments are kept apart, and what each may take."""

    isolation: Annotated[
        str,
        Option(
            "What keeps environments apart: namespaces, landlock, none; auto: the stronger that works here, never none",
            "HEADWAY_RUNNER_ISOLATION",
        ),
    ] = "auto"
    network: Annotated[
        str,
        Option(
            "What environments reach: gateway (model calls alone), or all that this machine reaches",
            "HEADWAY_RUNNER_ENVIRONMENT_NETWORK",
            "--environment-network",
        ),
    ] = "gateway"
    memory_bytes: Annotated[
        float,
        Option("MiB of memory of a session", "HEADWAY_RUNNER_SESSION_MEMORY_MIB", "--session-memory-mib", 64, per=_MIB),
    ] = 2 * _GIB
    disk_bytes: Annotated[
        float,
        Option(
            "MiB of files that a session may write",
            "HEADWAY_RUNNER_SESSION_DISK_MIB",
            "--session-disk-mib",
            16,
            per=_MIB,
        ),
    ] = _GIB
    processes: Annotated[
        int,
        Option("Processes and threads of a session", "HEADWAY_RUNNER_SESSION_PROCESSES", "--session-processes", 16),
    ] = 256
    start_timeout_s: Annotated[
        float,
        Option(
            "Seconds that an environment may take to answer", "HEADWAY_RUNNER_START_TIMEOUT_S", "--start-timeout", 1
        ),
    ] = 120.0
    slow_start_s: Annotated[
        float,
        Option(
            "Environments that take longer to start are kept warm: sessions of them are started before they are needed",
            "HEADWAY_RUNNER_SLOW_START_S",
            "--slow-start",
            0,
        ),
    ] = 1.0
    warm_sessions: Annotated[
        int,
        Option(
            "Sessions of a slow environment that are kept warm", "HEADWAY_RUNNER_WARM_SESSIONS", "--warm-sessions", 0
        ),
    ] = 2
    idle_s: Annotated[
        float,
        Option(
            "Seconds without a session after which a version's processes end",
            "HEADWAY_RUNNER_IDLE_S",
            "--environment-idle",
            1,
        ),
    ] = 600.0
    cache_bytes: Annotated[
        float,
        Option(
            "GiB of virtual environments and unpacked code to keep; the least recently used go first",
            "HEADWAY_RUNNER_ENVIRONMENTS_GIB",
            "--environments-gib",
            0,
            per=_GIB,
        ),
    ] = 20 * _GIB
    index_hosts: Annotated[
        str,
        Option(
            "HOST:PORT of package indexes that builds may reach, separated by commas, beside PyPI and those of uv's "
            "variables; *: every public host",
            "HEADWAY_RUNNER_INDEX_HOSTS",
            shown_default="none",
        ),
    ] = ""
    user_ids: Annotated[
        int,
        Option(
            "As root: the first of 70,000 user ids that nobody else has on this machine",
            "HEADWAY_RUNNER_USER_IDS",
            "--environment-user-ids",
            65536,
            2**31 - 70_000,
        ),
    ] = 1_900_000_000
