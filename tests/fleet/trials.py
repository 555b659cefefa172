"""One fault after another over a workload each, and what came of it: `python -m tests.fleet.trials [--only TEXT]`.

Exits with 1 if anything was lost, doubled or has other bits than in the undisturbed workload of the beginning.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.figures import machine
from tests.fleet.backing import backing
from tests.fleet.commands import missing
from tests.fleet.faults import FAULT_S, Fault, all_faults
from tests.fleet.network import Network
from tests.fleet.planes import SERVERS, Planes
from tests.fleet.process import REPOSITORY
from tests.fleet.workload import Result, Workload, deploy

TINY_BASE = REPOSITORY / ".headway-cache" / "tiny-arith"
NUM_STEPS = 12
_BEFORE_S = 3.0
_RECOVERY_S = 240.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a fault. troubles: attempts of clients without an answer, by status or error; longest_s: the
    slowest call with all its attempts; calls_meanwhile: that were done while the fault lasted; recovered_s: from its
    end until every server was ready and every model's client had another answer, None: not within four minutes.
    seconds: of the whole workload, and undisturbed_s without the fault."""

    kind: str
    where: str
    troubles: dict[str, int]
    longest_s: float
    calls_meanwhile: int
    recovered_s: float | None
    seconds: float
    undisturbed_s: float
    wrong: list[str]


@contextmanager
def open_planes() -> Generator[Planes]:
    """Raises AssertionError where this machine has no simulated hosts."""
    assert not (lacks := missing()), f"simulated hosts need: {'; '.join(lacks)}"
    with Network() as network, backing(network) as services:
        planes = Planes(network, services, TINY_BASE)
        try:
            planes.start()
            deploy(planes)
            yield planes
        finally:
            planes.close()


def try_fault(planes: Planes, fault: Fault, undisturbed: Result) -> Trial:
    workload = Workload(planes, NUM_STEPS)
    time.sleep(_BEFORE_S)
    before = workload.num_done()
    fault.begin(planes)
    time.sleep(FAULT_S)
    meanwhile = workload.num_done() - before
    fault.end(planes)
    recovered_s = _recovery_s(planes, workload)
    result = workload.result()
    wrong = result.differences(undisturbed)
    wrong += [] if recovered_s is not None else [f"not recovered after {_RECOVERY_S} s"]
    seen = (result.troubles, result.longest_s, meanwhile)
    return Trial(fault.kind, fault.where, *seen, recovered_s, result.seconds, undisturbed.seconds, wrong)


def _recovery_s(planes: Planes, workload: Workload) -> float | None:
    began, before = time.monotonic(), workload.progress()
    while time.monotonic() < began + _RECOVERY_S:
        after = workload.progress()
        moved = all(now is None or then is None or now > then for then, now in zip(before, after, strict=True))
        if moved and all(planes.is_ready(server) for server in SERVERS):
            return round(time.monotonic() - began, 1)
        time.sleep(0.2)
    return None


def diagnosis(planes: Planes) -> list[str]:
    """What `headway doctor` finds, on a host of its own."""
    log = planes.client_host.folder / "doctor"
    log.unlink(missing_ok=True)
    status = planes.headway(planes.client_host, ["doctor"], log=log).wait(120)
    return [] if status == 0 else [f"headway doctor: {log.read_text()[-1500:]}"]


def main() -> int:
    parser = argparse.ArgumentParser(description="One fault after another over a workload each.")
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    parser.add_argument("--fleets", type=int, default=1, help="that divide the faults among themselves")
    parser.add_argument("--part", type=int, help="which one of the fleets this is, from 0")
    parser.add_argument("--out", type=Path, default=Path(f"bench/results/fleet-faults-{os.cpu_count()}-cores.json"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the network has to be taken down
    faults = [fault for fault in all_faults() if arguments.only in fault.name]
    report = Report(arguments.out, {"fault_s": FAULT_S, "fleets": arguments.fleets, **machine()})
    if arguments.part is not None:
        return try_all(faults[arguments.part :: arguments.fleets], report)
    report.begin()
    return try_all(faults, report) if arguments.fleets == 1 else start_fleets(arguments.fleets)


def try_all(faults: Sequence[Fault], report: Report) -> int:
    """On one fleet. 1 if anything was wrong."""
    with open_planes() as planes:
        undisturbed = Workload(planes, NUM_STEPS).result()
        print(f"undisturbed: {undisturbed.seconds} s, {undisturbed.wrong or 'as it should be'}", flush=True)
        for fault in faults:
            report.add(try_fault(planes, fault, undisturbed), planes)
        report.end(diagnosis(planes))
    return int(bool(undisturbed.wrong) or report.is_wrong)


def start_fleets(number: int) -> int:
    """A process for each, with the words of this one. 1 if one of them ended otherwise than with 0."""
    command = [sys.executable, "-m", "tests.fleet.trials", *sys.argv[1:], "--part"]
    fleets = [subprocess.Popen([*command, str(part)]) for part in range(number)]
    try:
        statuses = [fleet.wait() for fleet in fleets]
        return int(any(statuses))
    finally:
        for fleet in fleets:
            fleet.terminate()
        for fleet in fleets:
            fleet.wait()


class Report:
    """A file of JSON, to which several fleets may write. Trials that were made before stand until they are made
    again."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self._path, self._facts = path, facts
        self.is_wrong = False

    def begin(self) -> None:
        """Forget what doctor has found before."""
        self._write(lambda found: found.update(doctor=[]))

    def add(self, trial: Trial, planes: Planes) -> None:
        print(json.dumps(asdict(trial)), flush=True)
        if trial.wrong:
            self.is_wrong = True
            print(planes.logs(), file=sys.stderr, flush=True)
        self._write(lambda found: found["trials"].append(asdict(trial)))

    def end(self, doctor: list[str]) -> None:
        """What it has found after all trials of a fleet."""
        self.is_wrong |= bool(doctor)
        self._write(lambda found: found["doctor"].extend(doctor))

    def _write(self, change: Callable[[dict[str, Any]], object]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            found: dict[str, Any] = {"trials": [], "doctor": [], **json.loads(file.read() or "{}"), **self._facts}
            change(found)
            latest = {(trial["kind"], trial["where"]): trial for trial in found["trials"]}
            order = [(fault.kind, fault.where) for fault in all_faults()]
            found["trials"] = [latest[name] for name in order if name in latest]
            file.truncate(0)
            file.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
