"""The border between the engine's thread and the event loop: one wake-up a step, however many requests run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from wire.sampling import GenerateEvent, SampledTokens


class EventStream:
    """What one request's consumer reads, on the event loop where it was made. What piled up arrives as one event."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._pending: list[GenerateEvent | Exception] = []
        self._arrival = asyncio.Event()

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
            event = _merge(items)
            yield event
            if event.finish_reason is not None:
                return


Delivery = tuple[EventStream, GenerateEvent | Exception]


def post(deliveries: Iterable[Delivery]) -> None:
    """Hand over a step's events, from any thread. A loop that is closed has nobody left to read."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Delivery]] = {}
    for stream, item in deliveries:
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
