"""What a trainer counts while it works, and the spans of an operation's phases. No torch here: what only the engine
knows is asked for when somebody scrapes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from uuid import UUID

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from store.oplog.operation import ModelState, Operation
from wire.loaded import LABELS, Loaded
from wire.process.tracing import operation_span, span

_OPERATION_S = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_MAX_MODELS = 50
_GOES_ON = "goes on"
_SECONDS_OF_PHASE = "seconds_"
_OF_A_MODEL = {
    "headway_trainer_model_loss": ("loss:sum", "Loss of the last step"),
    "headway_trainer_model_reward_mean": ("reward_mean", "Mean reward of its batch"),
    "headway_trainer_model_kl": ("kl_sampling_trainer:mean", "KL between sampler and trainer, in nats"),
    "headway_trainer_model_grad_norm": ("grad_norm", "2-norm of its gradient before clipping"),
}

Figures = Callable[[], Iterable[tuple[tuple[str, ...], float]]]
"""Label values and figures, as of now. Called from another thread than the one that works."""


class TrainerMetrics:
    """Instruments on a registry of their own. Per-model figures are of the models that stepped last."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._operations = Histogram(
            "headway_trainer_operation_seconds",
            "Operations, from being taken to their end: done, failed, deferred, or interrupted",
            ["kind", "outcome"],
            buckets=_OPERATION_S,
            registry=self.registry,
        )
        self._deferrals = Counter(
            "headway_trainer_deferrals", "Operations that were put off for a trouble", ["code"], registry=self.registry
        )
        self._phases = Counter(
            "headway_trainer_phase_seconds",
            "Seconds by what they were spent on; plan, forward, loss and backward are parts of pass",
            ["phase"],
            registry=self.registry,
        )
        self._tokens = Counter(
            "headway_trainer_tokens",
            "Tokens of gradient passes: action (trained on), merged, computed (after prefix sharing)",
            ["kind"],
            registry=self.registry,
        )
        self._passes = Counter("headway_trainer_passes", "Gradient passes, replays included", registry=self.registry)
        self._steps = Counter("headway_trainer_steps", "Optimizer steps that were committed", registry=self.registry)
        self._kept_logprobs = Counter(
            "headway_trainer_kept_logprobs",
            "Samples whose trainer logprobs were to be kept: written, or lost",
            ["outcome"],
            registry=self.registry,
        )
        self._snapshots = Counter(
            "headway_trainer_snapshots",
            "Files of nodes written in the background: written, or failed and tried again",
            ["outcome"],
            registry=self.registry,
        )
        self._info = Gauge(
            "headway_trainer_info",
            "1; what this trainer has loaded",
            ["base", *LABELS],
            registry=self.registry,
        )
        self._expected = Gauge(
            "headway_trainer_expected_tokens_per_second",
            "Trained by one model, as of a short pass when it started",
            registry=self.registry,
        )
        self._busy = Gauge("headway_trainer_busy", "1 while an operation is under way", registry=self.registry)
        self._models: OrderedDict[UUID, tuple[str, Mapping[str, float]]] = OrderedDict()
        self._outcome: str = "done"
        self._started: dict[UUID, float] = {}
        self.registry.register(_Asked(self._model_families))

    def loaded(self, base: str, loaded: Loaded) -> None:
        """What this process has loaded."""
        self._info.labels(base, *loaded.labels()).set(1)
        self._expected.set(loaded.tokens_per_s or 0)

    def show(self, name: str, meaning: str, labels: list[str], figures: Figures) -> None:
        """Ask for these figures at each scrape."""

        def family() -> Iterable[Metric]:
            shown = GaugeMetricFamily(name, meaning, labels=labels)
            for values, figure in figures():
                shown.add_metric(values, figure)
            return [shown]

        self.registry.register(_Asked(family))

    def count(self, name: str, meaning: str, labels: list[str], figures: Figures) -> None:
        """As `show`, of figures that only grow."""

        def family() -> Iterable[Metric]:
            counted = CounterMetricFamily(name, meaning, labels=labels)
            for values, figure in figures():
                counted.add_metric(values, figure)
            return [counted]

        self.registry.register(_Asked(family))

    def show_process(self) -> None:
        """Memory, processor time and files of this process."""
        ProcessCollector(registry=self.registry)

    @contextmanager
    def operation(self, operation: Operation, model: ModelState) -> Generator[None]:
        """The block carries an operation out: its log lines carry both ids, its spans are one trace."""
        self._started[operation.id], self._outcome = time.perf_counter(), "interrupted"
        self._busy.set(1)
        ids = {"operation": str(operation.id), "model_id": str(model.id)}
        try:
            with (
                structlog.contextvars.bound_contextvars(**ids),
                operation_span(operation.id, operation.attempts, {"kind": operation.kind, **ids}) as seen,
            ):
                yield
                if self._outcome == "interrupted":
                    self._outcome = "done"
                elif not self._is_going_on:
                    seen.failed(self._outcome)
        finally:
            if not self._is_going_on:
                self._ended(operation)

    @contextmanager
    def rest_of(self, operation: Operation, model: ModelState) -> Generator[None]:
        """The block ends one that went on elsewhere: its log lines carry both ids. Another one may be under way."""
        under_way, self._outcome = self._outcome, "interrupted"
        try:
            with structlog.contextvars.bound_contextvars(operation=str(operation.id), model_id=str(model.id)):
                yield
                if self._outcome == "interrupted":
                    self._outcome = "done"
        finally:
            self._ended(operation)
            self._outcome = under_way

    def goes_on(self) -> None:
        """The operation under way has left the engine, and goes on in another thread."""
        self._outcome = _GOES_ON

    @property
    def _is_going_on(self) -> bool:
        return self._outcome == _GOES_ON

    def _ended(self, operation: Operation) -> None:
        outcome = self._outcome if self._outcome in ("done", "interrupted", "deferred") else "failed"
        started = self._started.pop(operation.id)
        self._busy.set(1 if self._started else 0)
        self._operations.labels(operation.kind, outcome).observe(time.perf_counter() - started)

    def failed(self, code: str) -> None:
        """The operation under way ends in this error."""
        self._outcome = code

    def deferred(self, code: str) -> None:
        """The operation under way is put off for this trouble."""
        self._outcome = "deferred"
        self._deferrals.labels(code).inc()

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Count what the block takes, and give it a span."""
        started = time.perf_counter()
        try:
            with span(name):
                yield
        finally:
            self._phases.labels(name).inc(time.perf_counter() - started)

    def passed(self, metrics: Mapping[str, float]) -> None:
        """A gradient pass with these metrics."""
        self._passes.inc()
        for name, seconds in metrics.items():
            if name.startswith(_SECONDS_OF_PHASE) and name.endswith(":sum"):
                phase = name.removeprefix(_SECONDS_OF_PHASE).removesuffix(":sum")
                self._phases.labels(phase).inc(max(0.0, seconds))
        for kind, name in (
            ("action", "tokens:sum"),
            ("merged", "tokens_merged:sum"),
            ("computed", "tokens_computed:sum"),
        ):
            self._tokens.labels(kind).inc(max(0.0, metrics.get(name, 0.0)))

    def stepped(self, model: ModelState, metrics: Mapping[str, float]) -> None:
        """A step of this model was committed."""
        self._steps.inc()
        self._models[model.id] = (model.slug, dict(metrics))
        self._models.move_to_end(model.id)
        while len(self._models) > _MAX_MODELS:
            self._models.popitem(last=False)

    def kept_logprobs(self, outcome: str, num_samples: int) -> None:
        """What became of logprobs that were to be kept: `written` or `lost`. May be called from any thread."""
        self._kept_logprobs.labels(outcome).inc(num_samples)

    def snapshot(self, outcome: str) -> None:
        """What became of an attempt to write a node's files: `written` or `failed`. May be called from any thread."""
        self._snapshots.labels(outcome).inc()

    def _model_families(self) -> Iterable[Metric]:
        known = list(self._models.items())
        for name, (metric, meaning) in _OF_A_MODEL.items():
            family = GaugeMetricFamily(name, meaning, labels=["model", "slug"])
            for model_id, (slug, metrics) in known:
                if metric in metrics:
                    family.add_metric([str(model_id), slug], metrics[metric])
            yield family


class _Asked(Collector):
    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()
