"""Where tunnels find their session: there from when a runner takes it, open once its environment answers."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

from runner.environments.base import Session

MAX_TUNNELS = 64
"""Of one session at a time."""


class Closed(Exception):
    """No tunnel leads there; its text is a sentence for the client."""


class Door:
    """Of one session."""

    def __init__(self) -> None:
        self._session: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._changed_at = asyncio.get_running_loop().time()
        self.num_open = 0
        self.num_opened = 0
        self.left = asyncio.Event()
        """Set when the last open tunnel is closed."""

    def open(self, session: Session) -> None:
        """Its environment answers."""
        self._session.set_result(session)
        self._changed_at = asyncio.get_running_loop().time()

    def fail(self, sentence: str) -> None:
        """It did not start, or has ended."""
        if self._session.done():
            self._session = asyncio.get_running_loop().create_future()
        self._session.set_exception(Closed(sentence))
        self._session.exception()

    def idle_for_s(self) -> float:
        """For how long no tunnel has been open."""
        return 0.0 if self.num_open else asyncio.get_running_loop().time() - self._changed_at

    @contextmanager
    def passing(self) -> Generator[asyncio.Future[Session]]:
        """A tunnel, while it lasts; the future is done when the environment answers. Raises Closed if there are too
        many."""
        if self.num_open >= MAX_TUNNELS:
            raise Closed(f"this session has {MAX_TUNNELS} tunnels already, which is the most at a time")
        self.num_open += 1
        self.num_opened += 1
        try:
            yield self._session
        finally:
            self.num_open -= 1
            self._changed_at = asyncio.get_running_loop().time()
            if not self.num_open:
                self.left.set()


class Doors:
    """Of all sessions that a runner holds. Belongs to one event loop."""

    def __init__(self) -> None:
        self._doors: dict[UUID, Door] = {}

    @contextmanager
    def door(self, placement_id: UUID) -> Generator[Door]:
        """A session's, while the runner holds it."""
        door = self._doors[placement_id] = Door()
        try:
            yield door
        finally:
            del self._doors[placement_id]
            door.fail("the session has ended")

    def find(self, placement_id: UUID) -> Door:
        """Raises Closed if the session is not, or no longer, on this runner."""
        if (door := self._doors.get(placement_id)) is None:
            raise Closed("the session has ended")
        return door
