"""Wake-ups between processes through PostgreSQL's LISTEN / NOTIFY.

A wake-up is a hint, never the truth: who waits looks at the tables again, and also looks now and then unasked,
because a notification can be lost with its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import contextmanager

import psycopg
import sqlalchemy
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from store.database import normalise_url, psycopg_dsn
from store.keepalives import SERVER
from store.planes.presence import Presence

OPERATION_QUEUED = "hw_operation_queued"  # key: model id
OPERATION_DONE = "hw_operation_done"  # key: operation id
ADAPTERS_CHANGED = "hw_adapters_changed"  # key: base model id
ADAPTER_LOADED = "hw_adapter_loaded"  # key: adapter name (also sent when loading it failed)
TRAINERS_CHANGED = "hw_trainers_changed"  # key: base model id; a trainer is ready, gone, or wanted
SAMPLING_DONE = "hw_sampling_done"  # key: id of a sampling request, and of its sampling session
BUILD_CHANGED = "hw_build_changed"  # key: build id; it wrote a line, began, or ended
PLACEMENT_QUEUED = "hw_placement_queued"  # key: empty; a runner may find something to do
PLACEMENT_CHANGED = "hw_placement_changed"  # key: placement id; taken, ready, ended, or in the queue again
GUARD_DUE = "hw_guard_due"  # key: model id; the guard has something to look at or to do
RUN_CHANGED = "hw_run_changed"  # key: run id; it has an event, or somebody wants something of it
CACHES_STALE = "hw_caches_stale"  # key: call of a server process; others are to drop their lookups and acknowledge it
CACHES_DROPPED = "hw_caches_dropped"  # key: such a call, and the number of the process that acknowledges it

_OF_SERVERS = (
    OPERATION_DONE,
    ADAPTER_LOADED,
    GUARD_DUE,
    SAMPLING_DONE,
    BUILD_CHANGED,
    PLACEMENT_QUEUED,
    PLACEMENT_CHANGED,
    RUN_CHANGED,
    CACHES_STALE,
    CACHES_DROPPED,
)
_RECONNECT_S = 1.0


def notify(session: Session, channel: str, key: str) -> None:
    """Wake the listeners of (channel, key) when this transaction commits."""
    session.execute(sqlalchemy.select(func.pg_notify(channel, key)))


async def notify_async(session: AsyncSession, channel: str, key: str) -> None:
    """Wake the listeners of (channel, key) when this transaction commits."""
    await session.execute(sqlalchemy.select(func.pg_notify(channel, key)))


class Subscription:
    """Wake-ups for one (channel, key) since it was made."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Let `wait` return."""
        self._woken.set()

    def connected(self) -> None:
        """The listener has a connection, after a while in which it may have missed wake-ups."""
        self.wake()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up; False when none came in time. Consumes the wake-up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):  # in Python 3.11 wait_for loses a cancellation that comes with it
                await self._woken.wait()
        woken = self._woken.is_set()
        self._woken.clear()
        return woken


class SubscriptionElsewhere(Subscription):
    """As Subscription, for who waits on another event loop than the listener's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def wake(self) -> None:
        """Let `wait` return. While a wake-up waits to be consumed there, others cost its loop nothing."""
        if not self._woken.is_set():
            self._loop.call_soon_threadsafe(self._woken.set)


class AsyncListener:
    """One connection that listens for a whole server process and hands each wake-up to those who wait for it.

    After a lost connection every subscription is woken (`Subscription.connected`), since wake-ups may have been
    missed. The same connection shows that the process is there (`presence`).
    """

    def __init__(self, url: str, channels: Iterable[str] = _OF_SERVERS) -> None:
        self._dsn = psycopg_dsn(normalise_url(url))
        self._channels = tuple(channels)
        self.presence = Presence()
        self._waiting: dict[tuple[str, str | None], set[Subscription]] = {}
        self._handlers: dict[str, Callable[[str], object]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen from now on, reconnecting whenever the connection is lost."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop listening."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def handle(self, channel: str, handler: Callable[[str], object]) -> None:
        """Call this with the key of each wake-up of the channel. One handler a channel; none may block or raise."""
        self._handlers[channel] = handler

    @contextmanager
    def subscribe(self, channel: str, key: str | None) -> Generator[Subscription]:
        """Wake-ups for one key of a channel (None: for all of them) until the block ends."""
        subscription = Subscription()
        with self.listening(channel, key, subscription):
            yield subscription

    @contextmanager
    def listening(self, channel: str, key: str | None, subscription: Subscription) -> Generator[None]:
        """As `subscribe`, for a subscription of the caller's."""
        self._waiting.setdefault((channel, key), set()).add(subscription)
        try:
            yield
        finally:
            self._waiting[channel, key].discard(subscription)
            if not self._waiting[channel, key]:
                del self._waiting[channel, key]

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(psycopg.Error):
                async for notification in self._notifications():
                    self._wake(notification.channel, notification.payload)
            await asyncio.sleep(_RECONNECT_S)

    async def _notifications(self) -> AsyncGenerator[psycopg.Notify]:
        connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        async with connection:
            for channel in self._channels:
                await connection.execute(f"listen {channel}".encode())
            await self.presence.announce(connection)
            self._connected()
            async for notification in connection.notifies():
                yield notification

    def _wake(self, channel: str, key: str) -> None:
        if (handler := self._handlers.get(channel)) is not None:
            handler(key)
        for subscription in [*self._waiting.get((channel, key), ()), *self._waiting.get((channel, None), ())]:
            subscription.wake()

    def _connected(self) -> None:
        for subscriptions in self._waiting.values():
            for subscription in subscriptions:
                subscription.connected()


class Listener:
    """A worker's own connection for wake-ups. Used by one thread."""

    def __init__(self, url: str, *channels: str) -> None:
        self._dsn = psycopg_dsn(normalise_url(url))
        self._channels = channels
        self._connection: psycopg.Connection | None = None
        self._is_listening = False

    def wait(self, timeout_s: float) -> list[tuple[str, str]]:
        """(channel, key) of the wake-ups that came; returns at the first, or empty after `timeout_s`.

        Raises psycopg.OperationalError when the database is away; the next call connects again.
        """
        try:
            connection = self._connected()
            first = list(connection.notifies(timeout=timeout_s, stop_after=1))
            return [(n.channel, n.payload) for n in first]
        except psycopg.OperationalError:
            self.close()
            raise

    def listen(self) -> None:
        """Listen from now on, so that nothing sent after this call is missed."""
        try:
            self._connected()
        except psycopg.OperationalError:
            if self._connection is None:
                raise
            self.close()  # PostgreSQL ended it while nothing was asked of it
            self._connected()

    def skip(self) -> None:
        """Read and forget what has come: for whoever is about to look at the tables, and does not wait.

        A few hundred wake-ups that nobody reads fill a socket, and then PostgreSQL keeps those of all listeners, until
        its queue is full and no transaction that notifies can commit.
        """
        while self.wait(0.0):
            pass

    def rest(self) -> None:
        """Listen no more until the next `listen` or `wait`; the connection stays. For whoever may not wait again for
        long (see `skip`)."""
        if self._connection is not None:
            self._is_listening = False
            try:
                self._connection.execute("unlisten *")
            except psycopg.OperationalError:
                self.close()

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = psycopg.connect(self._dsn, autocommit=True)
            self._connection.execute(SERVER)
            self._is_listening = False
        if not self._is_listening:
            for channel in self._channels:
                self._connection.execute(f"listen {channel}".encode())
            self._is_listening = True
        return self._connection


class WakeableListener(Listener):
    """As Listener; other threads may end a wait."""

    def __init__(self, url: str, *channels: str) -> None:
        super().__init__(url, *channels)
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)

    def wake(self) -> None:
        """Let `wait` return, now or the next time. From any thread."""
        with contextlib.suppress(BlockingIOError):  # full of wake-ups
            self._waker.send(b"w")

    def wait(self, timeout_s: float) -> list[tuple[str, str]]:
        """As of Listener; empty after `wake` too."""
        if found := super().wait(0.0):
            return found
        poll = select.poll()
        for descriptor in (self._woken.fileno(), self._connected().fileno()):
            poll.register(descriptor, select.POLLIN)
        poll.poll(timeout_s * 1e3)
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        return super().wait(0.0)
