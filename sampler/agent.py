"""The agent beside a sampler: reports to the database what it holds, and loads what the database wants.

Reconciled at start, on every wake-up and now and then unasked, so a sampler that comes back needs no intervention.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from uuid import UUID

import structlog

from sampler.metrics import SamplerMetrics
from sampler.settings import LINGER_S
from store.checkpoint_stores import CheckpointStore
from store.database import DATABASE_AWAY, Database
from store.notify import ADAPTERS_CHANGED, Listener
from store.planes.adapters import WantedAdapter, forget_adapter, report_adapter, wanted_adapters
from store.planes.heartbeats import HEARTBEAT_S
from store.planes.registration import fall_silent, give_up, register_sampler, sampler_heartbeat
from store.repeating import RepeatedThread, Rhythm
from wire.errors import Unavailable
from wire.loaded import Loaded
from wire.process.faults import fault_point
from wire.process.tracing import span

log = structlog.get_logger(__name__)

_RECONCILE_S = 2.0
_AWAY_S = 1.0
_RETRY_FAILED_S = 30.0


class AdapterHolder(Protocol):
    """The part of a sampler backend that the agent needs."""

    def load_adapter(self, name: str, path: Path | None) -> None: ...

    def unload_adapter(self, name: str) -> None: ...

    def loaded(self) -> set[str]: ...

    @property
    def details(self) -> Loaded: ...

    def trouble(self) -> str | None: ...

    def final_trouble(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Whose adapters to hold, where the gateway reaches the sampler, and how long an unwanted adapter stays loaded.

    It stays so that a request which was routed just before the head moved still finds its weights.
    """

    base_id: UUID
    url: str
    backend: str
    linger_s: float = LINGER_S
    stores: Mapping[str, str] | None = None
    """Fingerprints of those that it loads from, as of `wire.loaded`."""


class Agent:
    """One thread that reconciles, one that keeps the heartbeat."""

    def __init__(
        self,
        database: Database,
        checkpoints: CheckpointStore,
        holder: AdapterHolder,
        settings: AgentSettings,
        metrics: SamplerMetrics | None = None,
    ) -> None:
        self._database = database
        self._checkpoints = checkpoints
        self._holder = holder
        self._settings = settings
        self._metrics = metrics or SamplerMetrics()
        self._failed_at: dict[str, float] = {}
        self._files: dict[str, tuple[UUID, UUID]] = {}
        self._reported: set[str] = set()
        self._unwanted_since: dict[str, float] = {}
        self._has_left = False
        self._trouble: str | None = None
        with database.session() as session:
            self._sampler_id = register_sampler(
                session,
                settings.base_id,
                settings.url,
                settings.backend,
                replace(holder.details, stores=settings.stores),
            )
        self._listener = Listener(database.url.render_as_string(hide_password=False), ADAPTERS_CHANGED)
        # It waits for wake-ups itself. The process lives on without these threads, and would look healthy.
        reconciling = Rhythm(0.0, failed="reconcile_failed", retry_s=_AWAY_S)
        self._reconciler = RepeatedThread("reconcile", self._reconcile_and_wait, reconciling)
        self._heart = RepeatedThread("heartbeat", self.beat, Rhythm(HEARTBEAT_S, failed="heartbeat_missed"))

    def start(self) -> None:
        """Begin; the first reconciliation is under way when this returns."""
        self._reconciler.start()
        self._heart.start()

    def leave(self) -> None:
        """Mark the sampler as stopped, so that the gateway routes here no more; adapters stay loaded for running
        requests."""
        self._has_left = True
        self._heart.close()  # a heartbeat would clear the mark
        try:
            with self._database.session() as session:
                give_up(session, self._sampler_id, self._holder.final_trouble())
        except DATABASE_AWAY:
            log.warning("goodbye_not_said", reason="the database is away; the heartbeat runs out by itself")

    def close(self) -> None:
        """Stop, and mark the sampler as stopped."""
        self._reconciler.stop()
        if not self._has_left:
            self.leave()
        self._reconciler.close()
        self._listener.close()

    def reconcile(self) -> None:
        """Load what is wanted and missing; unload what nobody has wanted for a while."""
        wanted = self._load_missing()
        held = self._holder.loaded()
        for name in held - wanted:
            if time.monotonic() - self._unwanted_since.setdefault(name, time.monotonic()) > self._settings.linger_s:
                self._unload(name)
        self._unwanted_since = {n: t for n, t in self._unwanted_since.items() if n in held and n not in wanted}
        self._release_files(held | wanted)

    def _load_missing(self) -> set[str]:
        """The names of what is wanted. After each load the database is asked again, so that what a request or a step
        waits for goes before all that a sampler has to load when it starts."""
        tried = set[str]()
        while True:
            with self._database.connection() as connection:
                wanted = wanted_adapters(connection, self._settings.base_id, self._sampler_id)
            held = self._holder.loaded()
            self._withdraw_lost(held)
            for adapter in wanted:
                if adapter.name in held and not adapter.is_reported:
                    self._report(adapter.name, None)  # again: the report was lost with its connection
            missing = [a for a in wanted if a.name not in held and a.name not in tried and self._may_try(a.name)]
            if not missing or self._has_left:
                return {adapter.name for adapter in wanted}
            tried.add(missing[0].name)
            self._load(missing[0])

    def _withdraw_lost(self, held: set[str]) -> None:
        """What generates may have died and come back empty: nobody is to be sent there before it is loaded again."""
        for name in self._reported - held:
            with self._database.session() as session:
                forget_adapter(session, self._sampler_id, name)
            self._reported.discard(name)

    def _load(self, adapter: WantedAdapter) -> None:
        started = time.monotonic()
        try:
            fault_point("load:before-fetch")
            path = self._fetch(adapter.name, *adapter.files) if adapter.files else None
            fetched = time.monotonic()
            fault_point("load:before-load")
            with self._metrics.loading(), span("load adapter", {"adapter": adapter.name}):
                self._holder.load_adapter(adapter.name, path)
            fault_point("load:after-load")
        except Unavailable as away:  # says nothing about the adapter
            log.warning("adapter_not_loaded_yet", adapter=adapter.name, reason=away.message)
            return
        except Exception as failure:  # whatever a broken file can cause must not end the agent
            self._failed_at[adapter.name] = time.monotonic()
            log.exception("adapter_failed", adapter=adapter.name)
            self._report(adapter.name, str(failure) or type(failure).__name__)
            return
        self._failed_at.pop(adapter.name, None)
        seconds = {"seconds": time.monotonic() - started, "fetch_s": fetched - started}  # a fetch verifies
        log.info("adapter_loaded", adapter=adapter.name, **{what: round(took, 4) for what, took in seconds.items()})
        self._report(adapter.name, None)

    def _fetch(self, name: str, model: UUID, checkpoint: UUID) -> Path:
        self._files[name] = (model, checkpoint)
        return self._checkpoints.fetch(model, checkpoint, state=False).adapter

    def _release_files(self, in_use: set[str]) -> None:
        """vLLM may read the files of an adapter for as long as it is registered."""
        for name in self._files.keys() - in_use:
            self._checkpoints.release(*self._files.pop(name))

    def _may_try(self, name: str) -> bool:
        return time.monotonic() - self._failed_at.get(name, -_RETRY_FAILED_S) >= _RETRY_FAILED_S

    def _report(self, name: str, error: str | None) -> None:
        fault_point("report:before-commit")
        with self._database.connection() as connection:
            report_adapter(connection, self._sampler_id, name, error)
        if error is None:
            self._reported.add(name)
        fault_point("report:after-commit")

    def _unload(self, name: str) -> None:
        with self._database.session() as session:
            forget_adapter(session, self._sampler_id, name)
        self._reported.discard(name)
        self._holder.unload_adapter(name)
        log.info("adapter_unloaded", adapter=name)

    def _reconcile_and_wait(self) -> None:
        self._listener.listen()
        self.reconcile()
        self._listener.wait(_RECONCILE_S)

    def beat(self) -> None:
        """A heartbeat, unless what generates is dead or hangs: no request is to be routed here until it is back. If it
        will not be back, the process ends."""
        trouble = self._holder.trouble()
        if trouble and trouble == self._trouble and self._holder.final_trouble() is None:
            return
        if trouble:
            with self._database.session() as session:
                fall_silent(session, self._sampler_id, trouble)
            log.error("out_of_rotation", reason=trouble)
        else:
            with self._database.connection() as connection:
                sampler_heartbeat(connection, self._sampler_id)
            if self._trouble:
                log.info("back_in_rotation")
        self._trouble = trouble
        if self._holder.final_trouble() is not None:
            os.kill(os.getpid(), signal.SIGTERM)
