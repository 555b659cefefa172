"""Works on the sampling requests of this process, each in a task of its own, until it has ended one way or another.

That no sampler is there, or holds the weights, or has room, ends no request: it is tried again, and whoever asks for
the answer meanwhile learns what it waits for. Endings are written together, as many as there are.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from server.principals.callers import Caller
from server.process.shutdown import ServerStopping
from server.sampling.collaborators import Sampling
from server.sampling.limits import TooManyRequests
from server.sampling.requests import SampleRequest
from server.sampling.sampler_client import SamplerGone
from server.sampling.scoring import score
from server.sampling.service import sample
from server.sampling.target import ServedCheckpoint, Target
from server.sampling_sessions.calls import SampleCall
from server.sampling_sessions.results import Sampled
from store.database import DATABASE_AWAY, AsyncDatabase
from store.sampling_requests import Ending, SamplingTarget, finish
from wire.adapter_names import adapter_name, base_adapter_name
from wire.errors import FINAL, ContextLengthExceeded, Gone, HeadwayError, InvalidRequest, Unavailable
from wire.process.off_loop import off_loop
from wire.sampling import PromptScores

log = structlog.get_logger(__name__)

_PAUSE_S = 0.5
_GIVE_UP_S = 3600.0
"""For so long a request waits for samplers; the SDK waits for two hours."""
_TRIES = 3
_MOST_BROKEN = 3
"""So often several samplers in a row may break off over it: the request may be what they died of."""
_MOST_WRITTEN = 64
_NOBODY = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Wait:
    """What a request waits for. `state`: as clients see it."""

    state: str = "active"
    reason: str | None = None


WORKING = Wait()


class SamplingRuns:
    """Those of one server process. `most`: how many of a team at once."""

    def __init__(self, sampling: Sampling, database: AsyncDatabase, most: int) -> None:
        self._sampling = sampling
        self._database = database
        self._most = most
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._waits: dict[UUID, Wait] = {}
        self._of_team: Counter[UUID] = Counter()
        self._endings: list[Ending] = []
        self._has_endings = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write endings from now on."""
        self._writer = asyncio.create_task(self._write_all())

    async def close(self) -> None:
        """Let go of all requests: whoever asks for their answers has them worked on elsewhere."""
        tasks = [*self._tasks.values(), *([self._writer] if self._writer else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def ids(self) -> set[UUID]:
        """The requests that are worked on."""
        return set(self._tasks)

    def wait_of(self, request_id: UUID) -> Wait:
        """What this request waits for; of one that another process works on, nobody here knows."""
        return self._waits.get(request_id, WORKING)

    def check_room(self, team_id: UUID) -> None:
        """Raises TooManyRequests where the team has as many here as it may have."""
        if self._of_team[team_id] >= self._most:
            self._sampling.dispatch.metrics.refused(team_id)
            raise TooManyRequests(
                f"this team has {self._of_team[team_id]} sampling requests under way; send fewer at once, and this one "
                "again in a moment",
                retry_after_s=1,
            )

    def refuse(self, request_id: UUID, message: str) -> None:
        """The client asks for what cannot be."""
        self._end(Ending(request_id, "failed", None, "user", message))

    def begin(self, request_id: UUID, team_id: UUID, call: SampleCall, target: SamplingTarget) -> None:
        """Work on a request that is this process's."""
        if request_id in self._tasks:
            return
        task = asyncio.create_task(self._run(request_id, call, _target_of(team_id, target)))
        self._tasks[request_id] = task
        self._of_team[team_id] += 1
        task.add_done_callback(lambda _: self._left(request_id, team_id))

    def stop(self, request_id: UUID) -> None:
        """It has ended otherwise."""
        if (task := self._tasks.get(request_id)) is not None:
            task.cancel()

    def _left(self, request_id: UUID, team_id: UUID) -> None:
        self._tasks.pop(request_id, None)
        self._waits.pop(request_id, None)
        self._of_team[team_id] -= 1
        if not self._of_team[team_id]:
            del self._of_team[team_id]

    async def _run(self, request_id: UUID, call: SampleCall, target: Target) -> None:
        with structlog.contextvars.bound_contextvars(sampling_request=str(request_id), model_id=str(target.model_id)):
            ending = await self._until_ended(request_id, lambda: self._sampled(target, call))
        if ending is not None:
            self._end(ending)

    async def _until_ended(self, request_id: UUID, work: Callable[[], Awaitable[Sampled]]) -> Ending | None:
        """None: this process stops, and another takes the request over."""
        began, num_failures, num_broken = time.monotonic(), 0, 0
        while True:
            try:
                sampled = await work()
                return Ending(request_id, "done", await off_loop(sampled.num_bytes, sampled.encoded))
            except ServerStopping:
                return None
            except (TooManyRequests, Unavailable, *DATABASE_AWAY) as busy:
                num_broken += isinstance(busy, SamplerGone) and busy.broke_off
                if num_broken >= _MOST_BROKEN or time.monotonic() - began > _GIVE_UP_S:
                    return Ending(request_id, "failed", None, "server", str(busy))
                kind = "paused_rate_limit" if isinstance(busy, TooManyRequests) else "paused_capacity"
                self._waits[request_id] = Wait(kind, str(busy).partition("\n")[0])
            except HeadwayError as error:
                num_failures += 1
                if error.tries is FINAL or num_failures >= _TRIES:
                    return Ending(request_id, "failed", None, _category(error), error.message)
                log.warning("sampling_failed", error=error.message, failures=num_failures)
            except Exception:
                log.exception("sampling_request_failed")
                message = "the server failed over this request; its log says why"
                return Ending(request_id, "failed", None, "server", message)
            await asyncio.sleep(_PAUSE_S)

    async def _sampled(self, target: Target, call: SampleCall) -> Sampled:
        scoring = call.scoring
        scored = asyncio.ensure_future(score(self._sampling, target, call.pictured, scoring)) if scoring else None
        scores: PromptScores | None = None
        try:
            request = SampleRequest([call.pictured], call.params, call.num_answers)
            answers = await sample(self._sampling, target, request) if call.max_tokens != 0 else []
            scores = await scored if scored is not None else None
        finally:
            if scored is not None:
                scored.cancel()
                await asyncio.gather(scored, return_exceptions=True)
        return Sampled.of(call, answers, scores)

    def _end(self, ending: Ending) -> None:
        self._endings.append(ending)
        self._has_endings.set()

    async def _write_all(self) -> None:
        while True:
            await self._has_endings.wait()
            written = self._endings[:_MOST_WRITTEN]
            try:
                async with self._database.connection() as connection:
                    await finish(connection, written)
            except DATABASE_AWAY as away:
                log.warning("sampling_endings_not_written", error=str(away).partition("\n")[0])
                await asyncio.sleep(_PAUSE_S)
                continue
            except Exception:
                log.exception("sampling_endings_not_written")
                await asyncio.sleep(_PAUSE_S)
                continue
            del self._endings[: len(written)]
            if not self._endings:
                self._has_endings.clear()


def _category(error: HeadwayError) -> str:
    return "user" if isinstance(error, (InvalidRequest, ContextLengthExceeded, Gone)) else "server"


def _target_of(team_id: UUID, found: SamplingTarget) -> Target:
    """Samplers are found when they are needed, and asked to hold the checkpoint."""
    checkpoint = None
    if found.checkpoint_id is not None:
        checkpoint = ServedCheckpoint(found.checkpoint_id, found.checkpoint_name or "", found.step or 0)
    return Target(
        caller=Caller(team_id, _NOBODY, "", "", frozenset(), None),
        team_id=team_id,
        model_id=found.model_id,
        max_concurrent_rollouts=found.max_concurrent_rollouts,
        slug=found.slug,
        base_id=found.base_id,
        base_slug=found.base_slug,
        checkpoint=checkpoint,
        adapter=adapter_name(found.files_id) if found.files_id else base_adapter_name(found.base_id),
        samplers=(),
    )
