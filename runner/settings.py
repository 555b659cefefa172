"""Settings of a runner process, with the options that give them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from runner.environments.settings import EnvironmentSettings
from wire.process.options import Option
from wire.process.tls_settings import PLANE_CA, TlsSettings

DRAIN_S = 25.0
"""What the large clouds leave a spot machine, less a little: they announce its end 30 s ahead."""


def _labels(text: str) -> tuple[str, ...]:
    return tuple(sorted({label.strip() for label in text.split(",") if label.strip()}))


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Which server it works for, what it takes, and where it keeps what it has fetched and built."""

    server: str
    key: str
    folder: Path
    environments: EnvironmentSettings
    slots: Annotated[
        int, Option("Builds, sessions and rollouts at a time", "HEADWAY_RUNNER_SLOTS", minimum=1, maximum=65536)
    ] = 16
    labels: Annotated[
        tuple[str, ...],
        Option(
            "What it has, separated by commas: it takes what asks for no other label",
            "HEADWAY_RUNNER_LABELS",
            shown_default="none",
            parse=_labels,
        ),
    ] = ()
    team: Annotated[str | None, Option("Take the work of this team alone, by its name", "HEADWAY_RUNNER_TEAM")] = None
    host: Annotated[str, Option("Address to listen on for tunnels of servers")] = "127.0.0.1"
    port: Annotated[int, Option("Port to listen on for tunnels; 0: any free one", minimum=0, maximum=65535)] = 0
    advertise_url: Annotated[
        str | None,
        Option("URL under which servers reach this runner with tunnels: ws:// or wss://", "HEADWAY_RUNNER_URL"),
    ] = None
    drain_s: Annotated[
        float,
        Option(
            "Seconds after SIGTERM in which it ends: it hands back what it cannot finish",
            "HEADWAY_RUNNER_DRAIN_S",
            "--drain",
            minimum=1.0,
        ),
    ] = DRAIN_S
    tls: TlsSettings = field(default_factory=TlsSettings)
    plane_ca: Annotated[Path | None, PLANE_CA] = None
    """Read when it starts."""
    key_file: Path | None = None
    """Read in place of the key (`wire.process.tokens`)."""
    rollouts_per_process: Annotated[
        int, Option("Rollouts at a time in one process of agents", "HEADWAY_RUNNER_ROLLOUTS_PER_PROCESS", minimum=1)
    ] = 64
    archives_bytes: Annotated[
        float,
        Option(
            "GiB of environments' archives to keep; the least recently used go first",
            "HEADWAY_RUNNER_ARCHIVES_GIB",
            "--archives-gib",
            minimum=0,
            per=1024**3,
        ),
    ] = 10 * 1024**3
