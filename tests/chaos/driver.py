"""`python -m tests.chaos.driver`: kill everything, everywhere, until enough deaths were survived bit for bit.

First every fault point of every kind of process with every action, then random ones. Results go to a ledger as they
come, and a campaign that was stopped goes on with what its ledger lacks. Exits with 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.figures import machine
from tests.chaos.box import LEASE_TTL_S, PLANES, Box
from tests.chaos.faults import ANY_TIME, Fault, all_faults
from tests.chaos.ledger import Ledger, as_text, done_faults, identity, summary
from tests.chaos.outcome import PARTS
from tests.chaos.program import NUM_STEPS
from tests.chaos.run import KEYLESS_PARTS, RunReport, differences, run
from tests.chaos.sabotage import NAMES
from wire.process.faults import POINTS

TINY_BASE = Path(__file__).parents[2] / ".headway-cache" / "tiny-arith"
NUM_PROGRAMS = 8
"""Programs that are compared with an undisturbed run of their own."""

_ONLY_AFTER_A_DEATH = {"trainer": {point for point in POINTS if point.startswith("replay:")}}
_RUNS_A_BOX = 40
_TRIES = 4
_KEYLESS_EVERY, _ALONE_EVERY = 4, 2
"""Every so many runs, clients send no Idempotency-Key; and models have no neighbours."""


@contextmanager
def open_box(base: Path = TINY_BASE, **options: Any) -> Generator[Box]:
    """options: of the box."""
    with tempfile.TemporaryDirectory(prefix="headway-chaos-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # PostgreSQL's own user has to get in
        box = Box(Path(name), base, **options)
        try:
            yield box.start()
        finally:
            box.close()


def reached(box: Box) -> dict[str, set[str]]:
    """The points that each plane reaches: those of undisturbed runs, and those that a death leads to."""
    return {kind: box.seen(kind) | _ONLY_AFTER_A_DEATH.get(kind, set()) for kind in PLANES}


class Campaign:
    """Deaths up to a number, on boxes that are replaced now and then."""

    num_programs = NUM_PROGRAMS
    num_steps = NUM_STEPS
    num_neighbours = 2

    def __init__(self, ledger: Ledger, num_points: int, seed: int) -> None:
        self._ledger = ledger
        self._num_points = num_points
        self._seed = seed
        self._undisturbed: dict[int, RunReport] = {}
        self._tries: dict[tuple[str, str, str], int] = {}
        self._num_runs = 0

    def run(self) -> None:
        while not self._is_done():
            with self._open() as box:
                for _ in range(_RUNS_A_BOX):
                    if self._is_done():
                        return
                    self._run_once(box)

    def _open(self) -> AbstractContextManager[Box]:
        return open_box()

    def _run_once(self, box: Box) -> None:
        rows = self._ledger.rows()
        self._num_runs += 1
        program = (len(rows) + self._num_runs) % self.num_programs
        expected = self._expected(box, program)
        with_keys = self._num_runs % _KEYLESS_EVERY != 0
        num_neighbours = self.num_neighbours if self._num_runs % _ALONE_EVERY else 0
        options = {"num_steps": self.num_steps, "with_keys": with_keys, "num_neighbours": num_neighbours}
        report = run(box, program, self._todo(box, len(rows)), **options)
        wrong = differences(report, expected, PARTS if with_keys else KEYLESS_PARTS)
        self._ledger.append(report, wrong)
        named = ", ".join(f"{p.fault.victim} {p.fault.point} {p.fault.action}" for p in report.points) or "nothing"
        print(f"{len(rows) + len(report.points):4} deaths; program {program}: {named}", flush=True)
        for text in wrong[:10]:
            print(f"     WRONG: {text}", flush=True)

    def _expected(self, box: Box, program: int) -> RunReport:
        if program not in self._undisturbed:
            self._undisturbed[program] = run(box, program)
            wrong = differences(run(box, program), self._undisturbed[program])
            assert not wrong, f"two undisturbed runs differ: {wrong}"
        return self._undisturbed[program]

    def _todo(self, box: Box, num_done: int) -> Generator[Fault]:
        """Each point once, as far as programs get there; then at random."""
        done = done_faults(self._ledger.rows())
        faults = all_faults(reached(box), self._seed)
        for fault in faults:
            tried = self._tries.get(identity(fault), 0)
            if identity(fault) not in done and tried < _TRIES:
                self._tries[identity(fault)] = tried + 1
                yield replace(fault, nth=1) if tried and fault.point != ANY_TIME else fault
        draw = random.Random(f"{self._seed} {num_done} {self._num_runs}")
        while True:
            faults = all_faults(reached(box), draw.randrange(2**32))
            process = draw.choice(sorted({fault.process for fault in faults}))
            yield draw.choice([fault for fault in faults if fault.process == process])

    def _is_done(self) -> bool:
        return len(self._ledger.rows()) >= self._num_points


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=300, help="deaths, those in the ledger included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", type=Path, default=Path("/tmp/chaos/ledger.jsonl"))
    parser.add_argument("--out", type=Path, default=Path(f"bench/results/chaos-{os.cpu_count()}-cores.json"))
    parser.add_argument("--sabotage", choices=NAMES, help="a promise to switch off; exits with 0 if that was noticed")
    arguments = parser.parse_args()
    if arguments.sabotage:
        return _sabotage(arguments.sabotage)
    ledger, started = Ledger(arguments.ledger), time.monotonic()
    Campaign(ledger, arguments.points, arguments.seed).run()
    found = {"lease_ttl_s": LEASE_TTL_S, **machine(), **summary(ledger.rows())}
    print("\n".join(as_text(found)))
    print(f"{time.monotonic() - started:.0f} s")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(found["identical"] < found["deaths"] or found["recovered"] < found["deaths"])


def _sabotage(name: str) -> int:
    from tests.chaos.saboteur import noticed

    for text in (found := noticed(name)):
        print(f"noticed: {text}")
    if not found:
        print(f"{name} was switched off, and nothing was noticed", file=sys.stderr)
    return int(not found)


if __name__ == "__main__":
    sys.exit(main())
