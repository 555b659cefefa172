"""How many training calls a server process answers at once: all of them, and those of one team.

A call that waits for a trainer costs memory for as long as it waits. One that finds no place is sent away before its
body is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar
from uuid import UUID

from server.process.settings import TrainingLimits
from wire.errors import UNTIL_MENDED, HeadwayError, Unavailable

_RETRY_AFTER_S = 10


class TooManyTrainingCalls(Unavailable):
    """This process answers as many training calls as it may."""

    code: ClassVar[str] = "too_busy"
    tries: ClassVar[int | None] = UNTIL_MENDED


class TooManyOfTheTeam(HeadwayError):
    """The team has as many training calls here as it may have."""

    status: ClassVar[int] = 429
    code: ClassVar[str] = "too_many_requests"
    tries: ClassVar[int | None] = UNTIL_MENDED


class TrainingPlaces:
    """The places of this process; with several, each has so many."""

    def __init__(self, limits: TrainingLimits) -> None:
        self._limits = limits
        self._taken: Counter[UUID] = Counter()

    @contextmanager
    def taken(self, team_id: UUID) -> Generator[None]:
        """A place, until the block ends. Raises TooManyOfTheTeam or TooManyTrainingCalls."""
        if self._taken[team_id] >= self._limits.calls_per_team:
            raise TooManyOfTheTeam(
                f"{self._taken[team_id]} training calls of this team wait for an answer at this server, which is as "
                "many as one team may have; nothing was done, wait for answers before you send more",
                retry_after_s=_RETRY_AFTER_S,
            )
        if self._taken.total() >= self._limits.calls:
            raise TooManyTrainingCalls(
                f"{self._taken.total()} training calls wait for an answer at this server, which is as many as it may "
                "have; nothing was done, try again in a few seconds",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._taken[team_id] += 1
        try:
            yield
        finally:
            self._taken[team_id] -= 1
            if not self._taken[team_id]:
                del self._taken[team_id]
