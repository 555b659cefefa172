"""Passes events from the engine's thread to the event loop: one wake-up a step, however many requests run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from wire.sampling import GenerateEvent, SampledTokens

_MOST_UNREAD = 256
"""Events of one token each. A sequence that is parked is computed again, so it should be worth it."""


class EventStream:
    """What one request's consumer reads, on the event loop where it was made. What piled up arrives as one event. A
    consumer that is behind gets nothing more until it reads, which calls `on_catch_up`."""

    def __init__(self, on_catch_up: Callable[[], None] = lambda: None) -> None:
        self.loop = asyncio.get_running_loop()
        self._pending: list[GenerateEvent | Exception] = []
        self._arrival = asyncio.Event()
        self._on_catch_up = on_catch_up
        self._num_sent = 0
        self._num_read = 0

    @property
    def is_behind(self) -> bool:
        """Whether so much is unread that no more should be put. From any thread."""
        return self._num_sent - self._num_read >= _MOST_UNREAD

    def sent(self) -> None:
        """An event was sent; from the sender's thread."""
        self._num_sent += 1

    def put(self, item: GenerateEvent | Exception) -> None:
        """Add what came; on the loop only."""
        self._pending.append(item)
        self._arrival.set()

    async def events(self) -> AsyncIterator[GenerateEvent]:
        """Up to the event with the finish reason. Raises what was put as an exception."""
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            items, self._pending = self._pending, []
            num_before, self._num_read = self._num_read, self._num_read + len(items)
            if self._num_sent - num_before >= _MOST_UNREAD:  # counted after the reading, or the sender could miss it
                self._on_catch_up()
            event = _merge(items)
            yield event
            if event.finish_reason is not None:
                return


Delivery = tuple[EventStream, GenerateEvent | Exception]


def post(deliveries: Iterable[Delivery]) -> None:
    """Hand over a step's events, from any thread. A loop that is closed has nobody left to read."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Delivery]] = {}
    for stream, item in deliveries:
        stream.sent()
        by_loop.setdefault(stream.loop, []).append((stream, item))
    for loop, those in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_put_all, those)


def _put_all(deliveries: list[Delivery]) -> None:
    for stream, item in deliveries:
        stream.put(item)


def _merge(items: list[GenerateEvent | Exception]) -> GenerateEvent:
    events: list[GenerateEvent] = []
    for item in items:
        if isinstance(item, Exception):
            raise item
        events.append(item)
    if len(events) == 1:
        return events[0]
    tokens = SampledTokens()
    for event in events:
        tokens.extend(event.tokens)
    return GenerateEvent.model_construct(
        tokens=tokens,
        text="".join(event.text for event in events),
        finish_reason=events[-1].finish_reason,
    )
