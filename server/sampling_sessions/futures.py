"""Requests to sample, from their submission to their answer; a protocol's calls end here.

Whoever waits for an answer holds no connection: a notification wakes the one call that waits for its request, and every
few seconds one statement finds, for all of them together, the requests whose process has died.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID, uuid4

from server.client_sessions.service import session_finished
from server.principals.callers import Caller
from server.sampling.collaborators import Sampling
from server.sampling_sessions.calls import SampleCall
from server.sampling_sessions.results import Sampled
from server.sampling_sessions.running import SamplingRuns, Wait
from server.sampling_sessions.sessions import no_such_sampler
from server.values.removed_files import sentence_of_removal
from store import sampling_requests as requests
from store.database import AsyncDatabase
from store.notify import SAMPLING_DONE, AsyncListener, Subscription
from store.repeating import RepeatedTask, Rhythm
from wire.errors import Gone, InvalidRequest, NotFound
from wire.process.off_loop import off_loop

_LOOK_EVERY_S = 5.0
_SILENT_S = 900.0
"""A client that has sent no heartbeat for so long is gone, if a server was there to take it. It sends one every ten
seconds."""
_EVER_S = 10 * 365 * 86_400.0
_MOST_CLAIMED = 256
_LEAST_PAUSE_S = 0.05
"""Completions that come together are reported together."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The request failed, and why: for the client to change (`user`), or for us (`server`)."""

    category: str
    message: str


Outcome: TypeAlias = Sampled | Failed | Wait
"""What became of a request so far. A Wait: nothing yet."""


def sequence_ids(request_id: UUID, num_answers: int) -> list[str]:
    """One for each answer, the same whenever the same request comes again."""
    return [f"{request_id.hex}-{index}" for index in range(num_answers)]


class SamplingFutures:
    """Those of one server process. Belongs to one event loop."""

    def __init__(
        self,
        sampling: Sampling,
        background: AsyncDatabase,
        listener: AsyncListener,
        most_of_a_team: int,
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._database = sampling.database
        self._background = background
        self._listener = listener
        self._waiting: Counter[UUID | str] = Counter()
        self._silent_s = _SILENT_S
        self._began_at = time.monotonic()
        self.runs = SamplingRuns(sampling, background, most_of_a_team)
        self._looking = RepeatedTask(self._look, Rhythm(look_every_s, failed="sampling_requests_not_looked_at"))

    def start(self) -> None:
        """Begin."""
        self.runs.start()
        self._looking.start()

    async def close(self) -> None:
        """Let go of everything."""
        await self._looking.close()
        await self.runs.close()

    async def submit(self, caller: Caller, session_id: str, sequence: int, call: SampleCall | Failed) -> UUID:
        """Write a request down and begin with it, or find the one of this number; its id. `Failed`: what is wrong with
        it, which its answer will say.

        Raises TooManyRequests, NotFound, SessionFinished, Forbidden, and InvalidRequest where the number belongs to
        another request.
        """
        self.runs.check_room(caller.team_id)
        encoded, names = (b"", ()) if isinstance(call, Failed) else (call.encoded(), [one.name for one in call.media])
        owner = self._listener.presence.number
        named = uuid4(), session_id, caller.team_id, sequence
        new = requests.NewRequest(*named, owner, encoded, caller.model_ids, names)
        async with self._database.connection() as connection:
            appended = await requests.append(connection, new)
            if appended is None:
                raise no_such_sampler(session_id)
            target, is_added = appended
            caller.require_model(target.model_id, target.slug)
            if target.is_finished:
                raise session_finished(session_id)
            if not is_added:
                known_id, request = await requests.known_request(connection, session_id, sequence)
                _require_same(call, request)
                return known_id
        if isinstance(call, Failed):
            self.runs.refuse(new.id, call.message)
        elif refusal := _refusal(call, target):
            self.runs.refuse(new.id, refusal)
        else:
            self.runs.begin(new.id, caller.team_id, call, target)
        return new.id

    async def result(self, team_id: UUID, request_id: UUID, timeout_s: float) -> Outcome:
        """What became of a request, as soon as it has ended, or a Wait after `timeout_s`.

        Raises NotFound for one that the team does not have, Gone for one whose result is not kept any longer.
        """
        deadline = time.monotonic() + timeout_s
        with self._waits_for(request_id, request_id.hex) as woken:
            while True:
                async with self._database.connection() as connection:
                    found = await requests.request_state(connection, request_id, team_id)
                if found is None:
                    raise NotFound("there is no such sampling request")
                if found.state != "open":
                    return await _outcome(found)
                if found.is_orphan:
                    await self._take_over([request_id])
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not await woken.wait(left_s):
                    return self.runs.wait_of(request_id)

    async def completed(self, session_id: str, clone: int, cursor: int, timeout_s: float) -> list[requests.Completion]:
        """The requests of one client of a sampling session that ended after `cursor`, as soon as there are any; none
        after `timeout_s`. (Whose session it is, the caller has checked.)"""
        deadline = time.monotonic() + timeout_s
        with self._waits_for(session_id, session_id) as woken:
            while True:
                async with self._database.connection() as connection:
                    found = await requests.completions(connection, session_id, clone, cursor)
                    orphans = await requests.orphans(connection, (), [session_id], _MOST_CLAIMED)
                await self._take_over(orphans)
                left_s = deadline - time.monotonic()
                if found or left_s <= 0 or not await woken.wait(left_s):
                    return found
                await asyncio.sleep(min(_LEAST_PAUSE_S, left_s))

    async def drop_fetched(self, team_id: UUID, session_id: str, request_ids: Collection[UUID]) -> None:
        """The client has these results."""
        if request_ids:
            async with self._database.connection() as connection:
                await requests.drop_fetched(connection, session_id, team_id, request_ids)

    async def cancel(self, team_id: UUID, request_id: UUID) -> None:
        """Nobody wants the answer any more. Raises NotFound."""
        async with self._database.connection() as connection:
            if not await requests.cancel(connection, request_id, team_id):
                raise NotFound("there is no such sampling request")
        self.runs.stop(request_id)

    async def _take_over(self, ids: Collection[UUID]) -> None:
        if not ids:
            return
        async with self._background.connection() as connection:
            claimed = await requests.claim(connection, ids, self._listener.presence.number)
        for one in claimed:
            if not one.request:
                self.runs.refuse(one.id, "the request cannot be understood")
                continue
            call = await off_loop(len(one.request), SampleCall.decoded, one.request)
            if refusal := _refusal(call, one.target):
                self.runs.refuse(one.id, refusal)
            else:
                self.runs.begin(one.id, one.team_id, call, one.target)

    async def _look(self) -> None:
        waited = [key for key in self._waiting if isinstance(key, UUID)]
        sessions = [key for key in self._waiting if isinstance(key, str)]
        running = self.runs.ids
        if not (waited or sessions or running):
            return
        async with self._background.connection() as connection:
            orphans = await requests.orphans(connection, waited, sessions, _MOST_CLAIMED)
            # A heartbeat may be missing because no server was there to take it.
            was_there = time.monotonic() - self._began_at > self._silent_s
            silent_s = self._silent_s if was_there else _EVER_S
            ended = await requests.ended_requests(connection, running, silent_s) if running else set[UUID]()
        for request_id in ended:
            self.runs.stop(request_id)
        await self._take_over(orphans)

    @contextmanager
    def _waits_for(self, key: UUID | str, channel_key: str) -> Generator[Subscription]:
        self._waiting[key] += 1
        try:
            with self._listener.subscribe(SAMPLING_DONE, channel_key) as subscription:
                yield subscription
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]


def _require_same(call: SampleCall | Failed, request: bytes) -> None:
    """Raises InvalidRequest where the number belongs to another request, as far as that is kept."""
    if request and not isinstance(call, Failed) and not SampleCall.decoded(request).is_like(call):
        raise InvalidRequest("this seq_id belongs to another request of the sampling session; use the next one")


def _refusal(call: SampleCall, target: requests.SamplingTarget) -> str:
    if target.files_are_removed:
        return sentence_of_removal(target.checkpoint_name, "sample a newer checkpoint")
    length = len(call.prompt) + (call.max_tokens or 0)
    if target.context_length is not None and length > target.context_length:
        return (
            f"the prompt has {len(call.prompt)} tokens and max_tokens is {call.max_tokens or 0}: together more than "
            f"the context of {target.context_length} tokens of {target.base_slug!r}"
        )
    return ""


async def _outcome(found: requests.RequestState) -> Outcome:
    if found.state == "failed":
        return Failed(found.error_category or "unknown", found.error_message or "the request failed")
    if found.state == "cancelled":
        return Failed("user", "the request was cancelled")
    if found.result is None:
        raise Gone("the answer was fetched, or its session has ended, and it is not kept any longer")
    return await off_loop(len(found.result), Sampled.decoded, found.result)
