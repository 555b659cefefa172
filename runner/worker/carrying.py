"""What carrying out a placement means, whatever its kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from wire.placements import EnvironmentSpec, Kind, Outcome, Placement


class HandBack(Exception):
    """This runner cannot do it for a reason of its own: its text is a sentence. Another attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Carried:
    """How it went. `error`: one sentence. `manifest`: of a build that completed."""

    outcome: Outcome
    error: str | None = None
    manifest: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Reports:
    """What a placement under way says to the server, in the name of its attempt. All of them wait for a server that is
    away, and raise Lost when the attempt is not this runner's any more."""

    ready: Callable[[], Awaitable[None]]
    """Its environment answers."""
    log: Callable[[int, Sequence[str]], Awaitable[None]]
    """Lines of a build, and the number of the first."""
    archive: Callable[[EnvironmentSpec], Awaitable[Path | None]]
    """The file of a version. Raises HandBack if it cannot be had."""


class Carrier(Protocol):
    """Carries out one kind of placement. Cancelling it stops all that it started before it returns."""

    async def carry_out(self, placement: Placement, reports: Reports) -> Carried:
        """Raises HandBack, Lost."""
        ...


Carriers: TypeAlias = Mapping[Kind, Carrier]
