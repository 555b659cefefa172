"""The life of a runner: register, lease as slots become free, show a heartbeat, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import structlog

from runner.worker.api import ServerApi
from runner.worker.archives import Archives
from runner.worker.carrying import Carried, Carriers, HandBack, Reports
from runner.worker.held import Holding, Holdings
from runner.worker.refusals import Away, KeyRefused, Lost, Refused, RunnerUnknown
from runner.worker.sendable import sendable_json, sendable_text
from wire.placements import (
    End,
    EnvironmentSpec,
    Heartbeat,
    LeaseRequest,
    LogLines,
    Placement,
    Ready,
    Registered,
    Registration,
)

log = structlog.get_logger(__name__)

AgentKeys: TypeAlias = dict[str, str]
"""Of the agents of each team whose rollouts this runner holds or held."""

_LEASE_WAIT_S = (10.0, 25.0)
_BEATS = (0.8, 1.2)
"""Times the time between heartbeats: those that were answered together would come together again."""
_AWAY_PAUSE_S = 0.5
_HAND_BACK_S = 8.0
"""Of the time for draining, what is kept for stopping and handing back what has not ended by itself."""
_STOPPING_S = 30.0
_MOST_CHARACTERS = 10_000
"""Of an error."""
_MOST_HAND_BACKS = 5
"""An attempt of a higher number that this runner cannot carry out has failed: it was tried elsewhere before."""
_FIRST_TROUBLE_S, _MAX_TROUBLE_S = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """slots: placements at a time. drain_s: from `stopping` until `run` returns, at most."""

    slots: int
    drain_s: float


class Worker:
    """Belongs to one event loop, which nothing that it calls may block: heartbeats go through it."""

    def __init__(
        self,
        api: ServerApi,
        registration: Registration,
        settings: WorkerSettings,
        carriers: Carriers,
        archives: Archives,
        keys: AgentKeys,
    ) -> None:
        self._api, self._registration, self._settings = api, registration, settings
        self._carriers, self._archives, self._keys = carriers, archives, keys
        self._holdings = Holdings(settings.slots)
        self._draining = asyncio.Event()
        self._heard_until = 0.0
        self._beat_now = asyncio.Event()
        self._trouble: str | None = None
        self._trouble_pause_s = 0.0

    @property
    def is_well(self) -> bool:
        """Whether the server has answered a heartbeat lately."""
        return asyncio.get_running_loop().time() < self._heard_until

    def beat_now(self) -> None:
        """Show a heartbeat at once: its answer may say that something is to be stopped."""
        self._beat_now.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set and what it holds has ended or was handed back. Raises KeyRefused, Refused."""
        while not stopping.is_set():
            registered = await self._register(stopping)
            if registered is None:
                return
            facts = self._registration
            log.info(
                "runner_ready",
                runner=str(registered.runner_id),
                slots=facts.slots,
                isolation=facts.isolation,
                kinds=facts.kinds,
                labels=facts.labels,
                versions=facts.versions,
            )
            try:
                await self._work(registered, stopping)
            except RunnerUnknown as unknown:
                log.warning("runner_unknown", error=str(unknown))
                self._holdings.stop_all(None)
                await self._holdings.until_empty(_STOPPING_S)

    async def _register(self, stopping: asyncio.Event) -> Registered | None:
        registering = asyncio.create_task(self._api.register(self._registration))
        await _first_of({registering}, stopping)
        if not registering.done():
            registering.cancel()
            return None
        return registering.result()

    async def _work(self, registered: Registered, stopping: asyncio.Event) -> None:
        heartbeats = asyncio.create_task(self._show_heartbeats(registered))
        leases = asyncio.create_task(self._keep_leasing(registered.runner_id))
        try:
            await _first_of({heartbeats, leases}, stopping)
            leases.cancel()
            await self._drain(registered.runner_id)
        finally:
            for task in (heartbeats, leases):
                task.cancel()
            await asyncio.gather(heartbeats, leases, return_exceptions=True)

    async def _drain(self, runner_id: UUID) -> None:
        """Finish what finishes, and hand back the rest."""
        began = asyncio.get_running_loop().time()
        drain_s = self._settings.drain_s
        hand_back_s = min(_HAND_BACK_S, drain_s / 2)
        log.info("runner_draining", num_held=len(self._holdings.held()))
        if not await self._holdings.until_empty(drain_s - hand_back_s):
            self._holdings.stop_all("handed_back")
            await self._holdings.until_empty(hand_back_s - 1)
        left_s = drain_s - (asyncio.get_running_loop().time() - began)
        with contextlib.suppress(Away):
            await self._api.stop(runner_id, max(0.5, left_s))
        log.info("runner_stopped", num_given_up=len(self._holdings.held()))
        await self._holdings.abandon()

    async def _show_heartbeats(self, registered: Registered) -> None:
        while True:
            heartbeat = Heartbeat(held=self._holdings.held(), trouble=self._trouble)
            try:
                beat = await self._api.heartbeat(registered.runner_id, heartbeat, registered.lost_after_s)
            except Away as error:
                log.info("server_away", path="heartbeat", error=str(error))
                await asyncio.sleep(min(_AWAY_PAUSE_S, registered.heartbeat_s))
                continue
            self._heard_until = asyncio.get_running_loop().time() + registered.lost_after_s
            self._keys |= beat.keys
            self._holdings.stop_named(beat.stop, heartbeat.held, "cancelled")
            if beat.drain:
                self._draining.set()
            else:
                self._draining.clear()
            with contextlib.suppress(TimeoutError):
                pause_s = registered.heartbeat_s * random.uniform(*_BEATS)  # noqa: S311 - as for leases
                await asyncio.wait_for(self._beat_now.wait(), pause_s)
            self._beat_now.clear()

    async def _keep_leasing(self, runner_id: UUID) -> None:
        while True:
            await self._holdings.until_free()
            await asyncio.sleep(self._trouble_pause_s)
            if self._draining.is_set():
                await asyncio.sleep(_AWAY_PAUSE_S)
                continue
            wait_s = random.uniform(*_LEASE_WAIT_S)  # noqa: S311 - runners that ask together do so once
            request = LeaseRequest(slots=self._holdings.num_free, kinds=self._registration.kinds, wait_s=wait_s)
            try:
                leased = await self._api.lease(runner_id, request)
            except Away as error:
                log.info("server_away", path="lease", error=str(error))
                await asyncio.sleep(_AWAY_PAUSE_S)
                continue
            for placement in leased.placements:
                if placement.key is not None:
                    self._keys[placement.team] = placement.key
                self._holdings.begin(placement, lambda holding: self._carry_out(runner_id, holding))

    async def _carry_out(self, runner_id: UUID, holding: Holding) -> None:
        """Held until the server has taken how it ended, for what the heartbeat does not name is given to others."""
        placement = holding.placement
        with structlog.contextvars.bound_contextvars(placement=str(placement.placement_id), attempt=placement.attempt):
            log.info("placement_taken", kind=placement.kind, environment=placement.environment.name)
            try:
                carried = await self._carried(runner_id, holding)
                if carried is None:
                    return
                await self._end(runner_id, placement, carried)
                log.info("placement_ended", outcome=carried.outcome, error=carried.error)
            except Lost as lost:
                log.info("placement_lost", error=str(lost))
            except (KeyRefused, Refused) as refused:
                log.warning("placement_end_refused", error=str(refused))

    async def _end(self, runner_id: UUID, placement: Placement, carried: Carried) -> None:
        """Report it. One that the server does not take is reported as a failure that says so: what is not ended is
        carried out again."""
        try:
            await self._api.end(runner_id, placement.placement_id, _end_of(placement, carried))
        except Refused as refused:
            why = Carried("failed", f"what came of it is refused: {refused}")
            await self._api.end(runner_id, placement.placement_id, _end_of(placement, why))

    async def _carried(self, runner_id: UUID, holding: Holding) -> Carried | None:
        """None: how it ends is not the server's business any more."""
        placement = holding.placement
        try:
            carried = await self._carriers[placement.kind].carry_out(placement, self._reports(runner_id, placement))
        except asyncio.CancelledError:
            if holding.stopped_as is None:
                return None
            holding.task.uncancel()
            return Carried(holding.stopped_as)
        except HandBack as reason:
            return self._handed_back(placement, str(reason))
        except (Lost, KeyRefused):
            raise
        except Exception as error:
            log.exception("placement_failed_here", kind=placement.kind)
            return self._handed_back(placement, f"the runner failed: {type(error).__name__}: {error}")
        self._trouble, self._trouble_pause_s = None, 0.0
        return carried

    def _handed_back(self, placement: Placement, why: str) -> Carried:
        """This runner takes the next one later and later while it cannot carry them out, so that others do."""
        self._trouble = sendable_text(why[:2000])
        self._trouble_pause_s = min(max(_FIRST_TROUBLE_S, self._trouble_pause_s * 2), _MAX_TROUBLE_S)
        log.warning("placement_handed_back", error=why, pause_s=self._trouble_pause_s)
        return Carried("handed_back" if placement.attempt < _MOST_HAND_BACKS else "failed", why)

    def _reports(self, runner_id: UUID, placement: Placement) -> Reports:
        ids = runner_id, placement.placement_id

        async def ready() -> None:
            await self._api.ready(*ids, Ready(attempt=placement.attempt))

        async def send_log(first: int, lines: Sequence[str]) -> None:
            await self._api.log(
                *ids, LogLines(attempt=placement.attempt, first=first, lines=list(map(sendable_text, lines)))
            )

        async def archive(spec: EnvironmentSpec) -> Path | None:
            try:
                return await self._archives.get(
                    spec, lambda build_id, path: self._api.fetch_archive(runner_id, build_id, path)
                )
            except (Away, Refused, OSError, ValueError) as error:
                raise HandBack(f"the archive of {spec.name} {spec.version} cannot be had: {error}") from None

        return Reports(ready, send_log, archive)


def _end_of(placement: Placement, carried: Carried) -> End:
    try:
        manifest = sendable_json(carried.manifest) if carried.manifest is not None else None
    except ValueError as error:
        why = f"what the environment says of its tasks cannot be sent: {error}"
        return End(attempt=placement.attempt, outcome="failed", error=why)
    error = sendable_text(carried.error[:_MOST_CHARACTERS]) if carried.error else None
    return End(attempt=placement.attempt, outcome=carried.outcome, error=error, manifest=manifest)


async def _first_of(work: set[asyncio.Task[Any]], stopping: asyncio.Event) -> None:
    """Until `stopping` is set or one of these has ended; what it raised is raised."""
    waiting = asyncio.create_task(stopping.wait())
    try:
        done, _ = await asyncio.wait({*work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    for task in done - {waiting}:
        task.result()
