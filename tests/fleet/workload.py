"""What clients do while hosts fail: two models go through programs of training calls, and a managed run plays rollouts.

Programs and run are drawn from seeds, and so are the bits that they leave: a disturbed workload must leave the same.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass

from tests.chaos import managed_run
from tests.chaos.client import PatientClient
from tests.chaos.invariants import of_database
from tests.chaos.outcome import Outcome, outcome
from tests.chaos.program import Progress, program
from tests.fleet.planes import Planes

NUM_MODELS = 2
RUN_STEPS = 1
SEED = 11
PATIENCE_S = 300.0
"""Of a client: a host that vanished is started again, and then its plane."""


@dataclass(slots=True)
class Result:
    """`wrong`: what was not as it should be whatever else happened. troubles: attempts of clients that had no
    answer."""

    outcomes: list[Outcome]
    run: managed_run.Left | None
    wrong: list[str]
    troubles: dict[str, int]
    longest_s: float
    seconds: float

    def differences(self, undisturbed: Result) -> list[str]:
        """Everything that is wrong, or not as in an undisturbed workload."""
        found = list(self.wrong)
        for number, (mine, expected) in enumerate(zip(self.outcomes, undisturbed.outcomes, strict=True)):
            found += [f"model {number}: {text}" for text in mine.differences(expected)]
        if self.run is None or undisturbed.run is None:
            return [*found, "the managed run left nothing"]
        return found + [f"the run: {text}" for text in managed_run.differences(self.run, undisturbed.run)]


class _Model(threading.Thread):
    """One model whose client goes through its program."""

    def __init__(self, planes: Planes, seed: int, num_steps: int) -> None:
        super().__init__(daemon=True)
        self.client = PatientClient(lambda: planes.url, planes.headers, patience_s=PATIENCE_S)
        self.progress, self.num_done, self.failure = Progress(), 0, ""
        self._calls = program(seed, num_steps)
        self._slug = f"fleet-{uuid.uuid4().hex[:12]}"
        body = {"source_model_id": str(planes.base_id), "name": self._slug}
        self.model_id: str = self.client.expect("POST", "/v2/models/fork", body)["id"]

    def run(self) -> None:
        try:
            for call in self._calls:
                call(self.client, self.model_id, self._slug, self.progress)
                self.num_done += 1
        except Exception as error:
            self.failure = f"model {self._slug}, call {self.num_done}: {type(error).__name__}: {error}"


class _Run(threading.Thread):
    """A managed run from its start to its end."""

    def __init__(self, planes: Planes, steps: int) -> None:
        super().__init__(daemon=True)
        self.left: managed_run.Left | None = None
        self.failure = ""
        self._planes, self._steps = planes, steps

    def run(self) -> None:
        try:
            self.left = managed_run.go_through(self._planes, self._steps)
        except Exception as error:
            self.failure = f"the run: {type(error).__name__}: {error}"


class Workload:
    """Begins when it is made, on the client's host."""

    def __init__(self, planes: Planes, num_steps: int) -> None:
        self._planes = planes
        self._began = time.monotonic()
        with planes.client_host.inside():  # threads stay in the network of the one that started them
            self._models = [_Model(planes, SEED + number, num_steps) for number in range(NUM_MODELS)]
            self._run = _Run(planes, RUN_STEPS)
            for thread in (*self._models, self._run):
                thread.start()

    def progress(self) -> list[int | None]:
        """Calls that each model has done; None once it is through."""
        return [model.num_done if model.is_alive() else None for model in self._models]

    def num_done(self) -> int:
        """Calls that all models have done."""
        return sum(model.num_done for model in self._models)

    def result(self) -> Result:
        """When everything has ended."""
        for thread in (*self._models, self._run):
            thread.join()
        seconds = time.monotonic() - self._began
        clients = [model.client for model in self._models]
        failures = [thread.failure for thread in (*self._models, self._run) if thread.failure]
        with self._planes.client_host.inside():
            wrong = [*failures, *of_database(self._planes)]
        return Result(
            [outcome(self._planes, model.model_id, model.progress) for model in self._models],
            self._run.left,
            wrong,
            dict(sum((client.troubles for client in clients), Counter[str]())),
            round(max(client.longest_s for client in clients), 1),
            round(seconds, 1),
        )


def deploy(planes: Planes) -> None:
    """The environment that the run plays."""
    with planes.client_host.inside():
        managed_run.deploy(planes)
