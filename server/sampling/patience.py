"""One time limit for waiting on samplers: whether none lives, none holds the adapter or none answers, a request waits
for so long in all, and then gets a 503 that says which of these it was.

Where samplers are started when they are asked for, the wait for the first one may have a limit of its own, or the
request is refused at once.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from uuid import UUID

from server.process.shared_lookups import SharedLookups
from server.process.shutdown import Shutdown
from server.sampling.lookups import PIN_S, Holders
from server.sampling.target import Target
from store.notify import ADAPTER_LOADED, AsyncListener
from store.planes.serving import Sampler
from wire.errors import Unavailable

_LOOK_EVERY_S = 1.0
_WANT_EVERY_S = PIN_S / 2
_RETRY_AFTER_S = 2
_RETRY_WHEN_STARTED_S = 10
"""A sampler takes longer to start than to answer."""


class Patience:
    """Of one request, from the first moment in which no sampler took it. `start_s`: the limit while none lives; once
    one has come up, the other begins."""

    def __init__(self, limit_s: float, start_s: float) -> None:
        self._limit_s, self._start_s = limit_s, start_s
        self._since: float | None = None
        self._awaits_start = self._came_up = False

    def begin(self) -> None:
        """Nobody takes the request; without effect while that is so already."""
        self._since = self._since or time.monotonic()

    def reset(self) -> None:
        """A sampler had it."""
        self._since = None

    def saw(self, num_live: int) -> None:
        """So many samplers of the base live now."""
        if num_live and self._awaits_start and not self._came_up:
            self._came_up, self._since = True, time.monotonic()
        self._awaits_start = not num_live and not self._came_up

    @property
    def limit_s(self) -> float:
        """For how long a request may wait for what this one waits for."""
        return self._start_s if self._awaits_start else self._limit_s

    @property
    def left_s(self) -> float:
        """For how long it may still wait."""
        return self.limit_s - (time.monotonic() - self._since if self._since else 0.0)


@dataclass(frozen=True, slots=True)
class Absence:
    """What becomes of requests while no sampler of their base lives: they are refused at once, or wait up to `wait_s`.
    Those of agents on runners wait in any case, for a refusal would cost the rollout."""

    refuses: bool
    wait_s: float

    def patience(self, limit_s: float) -> Patience:
        """Of a new request, which waits up to `limit_s` for a sampler that lives."""
        return Patience(limit_s, self.wait_s)

    def is_refused(self, target: Target) -> bool:
        """Whether the request is not to wait."""
        return self.refuses and target.caller.runner_id is None


@dataclass(frozen=True, slots=True)
class AdapterHolders:
    """Finds the live samplers that hold a target's adapter, and waits for them. `wants`: has samplers load it."""

    holders: SharedLookups[tuple[UUID, str], Holders]
    wants: SharedLookups[UUID, None]
    listener: AsyncListener
    shutdown: Shutdown
    absence: Absence

    async def find(self, target: Target) -> Holders:
        """Who holds it now."""
        return await self.holders.ask((target.base_id, target.adapter))

    async def wait(self, target: Target, patience: Patience) -> tuple[Sampler, ...]:
        """They, once there are some. Those that wait for the same ask the database together. Raises Unavailable when
        all of them refuse the adapter, none lives and nobody is to wait for one, or patience is over."""
        patience.begin()
        async with self.shutdown.waiting():
            with self.listener.subscribe(ADAPTER_LOADED, target.adapter) as subscription:
                wanted_at = -math.inf
                while True:
                    wanted_at = await self._want(target, wanted_at)
                    held = await self.find(target)
                    if held.samplers:
                        return held.samplers
                    if held.votes.is_refused:
                        raise _unavailable(target, f"could load {target.weights}: {held.votes.refusals[0]}")
                    patience.saw(held.votes.live)
                    if not held.votes.live and self.absence.is_refused(target):
                        raise _absent(target, held.trouble)
                    if patience.left_s <= 0:
                        did = f"loaded {target.weights}" if held.votes.live else "came up"
                        why = f" ({held.trouble})" if held.trouble else ""
                        raise _unavailable(target, f"{did} within {patience.limit_s:.0f} s{why}")
                    await subscription.wait(min(patience.left_s, _LOOK_EVERY_S))

    async def _want(self, target: Target, wanted_at: float) -> float:
        """Have the target loaded, unless that was asked lately; when it was asked. What no head points at any more
        is loaded by nobody unasked, and a sampler may take longer to start than a wish counts."""
        now = time.monotonic()
        if target.checkpoint is None or now - wanted_at < _WANT_EVERY_S:
            return wanted_at
        await self.wants.ask(target.checkpoint.id)
        return now


def _unavailable(target: Target, why: str) -> Unavailable:
    return Unavailable(
        f"no sampler for the base {target.base_slug!r} {why}; try again in a few seconds", retry_after_s=_RETRY_AFTER_S
    )


def _absent(target: Target, trouble: str | None) -> Unavailable:
    why = f" ({trouble})" if trouble else ""
    return Unavailable(
        f"no sampler for the base {target.base_slug!r} is alive{why}; one is asked for: try again when it has started",
        retry_after_s=_RETRY_WHEN_STARTED_S,
    )
