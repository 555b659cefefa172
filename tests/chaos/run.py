"""Two models go through their programs at once while processes die; then both are compared with an undisturbed run.

With neighbours, passes of theirs always wait too, so that the trainer writes others down beside the engine.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from tests.chaos.box import Box
from tests.chaos.client import PatientClient
from tests.chaos.disturbance import Disturbance, Recovery
from tests.chaos.faults import Fault
from tests.chaos.invariants import of_database, violations
from tests.chaos.outcome import PARTS, Outcome, outcome
from tests.chaos.program import NUM_STEPS, Call, Progress, forwards, program

NUM_MODELS = 2
KEYLESS_PARTS = ("tree", "head")
"""What must be the same when clients send no keys: then a call may be in the log twice, but applied once."""


@dataclass(slots=True)
class Point:
    """What came of one fault."""

    fault: Fault
    recovery: Recovery
    recovered: bool
    violations: list[str] = field(default_factory=list)


@dataclass(slots=True)
class RunReport:
    """Of one run: its points, what the programs left, and where that was wrong."""

    seed: int
    with_keys: bool
    points: list[Point]
    outcomes: list[Outcome]
    violations: list[str]


class _Driven(threading.Thread):
    """A model whose client goes through its program."""

    def __init__(self, box: Box, calls: Iterable[Call], *, with_keys: bool) -> None:
        super().__init__(daemon=True)
        self.client = PatientClient(lambda: box.url, box.headers, with_keys=with_keys)
        self.slug = f"chaos-{uuid.uuid4().hex[:12]}"
        self.progress = Progress()
        self.num_done = 0
        self.failure: str | None = None
        self._calls = calls
        body = {"source_model_id": str(box.base_id), "name": self.slug}
        self.model_id: str = self.client.expect("POST", "/v2/models/fork", body)["id"]

    def run(self) -> None:
        try:
            for call in self._calls:
                call(self.client, self.model_id, self.slug, self.progress)
                self.num_done += 1
        except Exception as error:
            self.failure = f"{self.slug}, call {self.num_done}: {type(error).__name__}: {error}"


class _Neighbour(_Driven):
    """A model that is asked for passes which change nothing, one after the other until the block ends."""

    def __init__(self, box: Box, seed: int) -> None:
        super().__init__(box, forwards(seed), with_keys=True)
        self._is_over = threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        self._calls = itertools.takewhile(lambda _: not self._is_over.is_set(), self._calls)
        super().run()


def run(
    box: Box,
    seed: int,
    faults: Iterable[Fault] = (),
    *,
    num_steps: int = NUM_STEPS,
    with_keys: bool = True,
    num_neighbours: int = 0,
    program_of: Callable[[int, int], list[Call]] = program,
    forgets_blobs: bool = True,
) -> RunReport:
    """Inflict as many of the faults, in order, as there is time for before the programs end. forgets_blobs: those of
    the run before; not where the database still names them."""
    if forgets_blobs:
        box.forget_blobs()
    programs = [program_of(seed * NUM_MODELS + i, num_steps) for i in range(NUM_MODELS)]
    neighbours = [_Neighbour(box, number) for number in range(num_neighbours)]
    with ExitStack() as stack:
        for each in neighbours:
            stack.enter_context(each)
        report = _run(box, seed, faults, programs, with_keys=with_keys)
    failures = [each.failure for each in neighbours if each.failure is not None]
    return replace(report, violations=[*report.violations, *failures])


def _run(
    box: Box, seed: int, faults: Iterable[Fault], programs: Sequence[Sequence[Call]], *, with_keys: bool
) -> RunReport:
    driven = [_Driven(box, calls, with_keys=with_keys) for calls in programs]
    disturbance = Disturbance(
        box, lambda: sum(d.num_done for d in driven), lambda: not any(d.is_alive() for d in driven)
    )
    observer = PatientClient(lambda: box.url, box.headers)
    for each in driven:
        each.start()
    points: list[Point] = []
    watched = itertools.cycle(driven)
    for fault in faults:
        if not any(d.is_alive() for d in driven):
            break
        recovery = disturbance.inflict(fault)
        if recovery is None:
            continue
        recovered = recovery.recovered_s is not None or not any(d.is_alive() for d in driven)
        point, model = Point(fault, recovery, recovered), next(watched)
        points.append(point)
        try:
            point.violations += violations(box, observer, model.model_id, model.slug)
        except AssertionError as error:
            point.violations.append(str(error))
    for each in driven:
        each.join()
    observer.close()
    return RunReport(
        seed,
        with_keys,
        points,
        [outcome(box, d.model_id, d.progress) for d in driven],
        [*(d.failure for d in driven if d.failure is not None), *of_database(box)],
    )


def differences(report: RunReport, undisturbed: RunReport, parts: Sequence[str] = PARTS) -> list[str]:
    """Everything in which a run is not as it should be, as far as the parts of its outcomes go."""
    found = [f"{point.fault}: nothing moved any more" for point in report.points if not point.recovered]
    found += [*report.violations, *(text for point in report.points for text in point.violations)]
    for index, (mine, expected) in enumerate(zip(report.outcomes, undisturbed.outcomes, strict=True)):
        found += [f"model {index}: {text}" for text in mine.differences(expected, parts)]
    return found
