"""`python -m tests.chaos.groups`: trainers of 1, 2 and 4 ranks take over from one another, whichever of them dies.

Each death is followed by a trainer of another size, while another one gets to points that are left. What the models are
in the end is compared with an undisturbed run by one process, which computes alone: same answers, metrics and files, to
the bit. The ledger is as that of `tests.chaos.driver`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.figures import machine
from tests.chaos.box import Box
from tests.chaos.disturbance import wait_for_ranks
from tests.chaos.driver import Campaign, open_box
from tests.chaos.faults import ANY_TIME, Fault
from tests.chaos.group_faults import group_faults, reaches
from tests.chaos.ledger import Ledger, as_text, done_faults, identity, summary
from tests.chaos.processes import send
from tests.chaos.run import RunReport, run

SIZES = (1, 2, 4)
LEASE_TTL_S = 4.0
"""Ranks wait for one another for three quarters of it: four of them load a base on two cores meanwhile."""

NUM_PROGRAMS = 4
NUM_STEPS = 8
_TRIES = 3


@dataclass(slots=True)
class Sizes:
    """Options of the next trainer: of `fixed` ranks where that is set, and else of a size that is of use, another than
    the last if there is any.

    Micro-batches and shards are small, so that a batch has more shards than ranks.
    """

    seed: int = 0
    fixed: int | None = None
    max_tokens_per_pass: int = 24
    is_of_use: Callable[[int], bool] = lambda size: True
    _last: int = 0
    _draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)

    def __call__(self) -> dict[str, Any]:
        """For `Box`."""
        others = [size for size in SIZES if size != self._last]
        of_use = list(filter(self.is_of_use, others)) or list(filter(self.is_of_use, SIZES))
        self._last = self.fixed or self._draw.choice(of_use or others)
        return {
            "gpus": self._last,
            "max_tokens_per_pass": self.max_tokens_per_pass,
            "min_shard_tokens": 12,
            "stop_grace_s": 1.0,
        }


def open_group_box(sizes: Sizes) -> AbstractContextManager[Box]:
    """Whose trainers have these sizes."""
    return open_box(trainer_options=sizes, lease_ttl_s=LEASE_TTL_S)


def replace_trainer(box: Box) -> None:
    """By one of the size that is next, at once."""
    before = box.pid("trainer")
    send(before, signal.SIGKILL)
    while box.pid("trainer") == before:
        time.sleep(0.01)
    wait_for_ranks(box)


def alone(box: Box, sizes: Sizes, program: int, **options: Any) -> RunReport:
    """The program, undisturbed, by a process that computes alone."""
    sizes.fixed = 1
    try:
        if box.num_ranks > 1:
            replace_trainer(box)
        return run(box, program, **options)
    finally:
        sizes.fixed = None


class GroupCampaign(Campaign):
    """Deaths of ranks up to a number."""

    num_programs = NUM_PROGRAMS
    num_steps = NUM_STEPS
    num_neighbours = 0

    def __init__(self, ledger: Ledger, num_points: int, seed: int) -> None:
        super().__init__(ledger, num_points, seed)
        self._pending = list[Fault]()
        self._sizes = Sizes(seed, is_of_use=self._is_of_use)
        self._draw = random.Random(seed)

    def _open(self) -> AbstractContextManager[Box]:
        return open_group_box(self._sizes)

    def _expected(self, box: Box, program: int) -> RunReport:
        if program not in self._undisturbed:
            self._undisturbed[program] = alone(box, self._sizes, program, num_steps=self.num_steps)
        return self._undisturbed[program]

    def _todo(self, box: Box, num_done: int) -> Generator[Fault]:
        """Each point once, as far as the trainer of the moment gets there; then at random."""
        done = done_faults(self._ledger.rows())
        self._pending = [
            fault
            for fault in group_faults(self._seed)
            if identity(fault) not in done and self._tries.get(identity(fault), 0) < _TRIES
        ]
        while True:
            wait_for_ranks(box)
            yield self._next(box.num_ranks)

    def _next(self, num_ranks: int) -> Fault:
        """Of those that this trainer reaches, the one that the fewest reach: a large one has no death to spare for a
        point that a small one gets to."""
        faults = [fault for fault in self._pending if reaches(fault, num_ranks)]
        if not faults:
            faults = group_faults(self._draw.randrange(2**32))
            return self._draw.choice([fault for fault in faults if reaches(fault, num_ranks)])
        fault = min(faults, key=lambda fault: sum(reaches(fault, size) for size in SIZES))
        self._pending.remove(fault)
        tried = self._tries.get(identity(fault), 0)
        self._tries[identity(fault)] = tried + 1
        return replace(fault, nth=1) if tried and fault.point != ANY_TIME else fault

    def _is_of_use(self, num_ranks: int) -> bool:
        return any(reaches(fault, num_ranks) for fault in self._pending)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=150, help="deaths, those in the ledger included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", type=Path, default=Path("/tmp/chaos/groups.jsonl"))
    parser.add_argument("--out", type=Path, default=Path(f"bench/results/chaos-groups-{os.cpu_count()}-cores.json"))
    arguments = parser.parse_args()
    ledger, started = Ledger(arguments.ledger), time.monotonic()
    GroupCampaign(ledger, arguments.points, arguments.seed).run()
    found: dict[str, Any] = {
        "command": f"python -m tests.chaos.groups --points {arguments.points} --seed {arguments.seed}",
        "sizes": SIZES,
        "lease_ttl_s": LEASE_TTL_S,
        **machine(),
        "wall_s": round(time.monotonic() - started),
        **summary(ledger.rows()),
    }
    print("\n".join(as_text(found)))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(found["identical"] < found["deaths"] or found["recovered"] < found["deaths"])


if __name__ == "__main__":
    sys.exit(main())
