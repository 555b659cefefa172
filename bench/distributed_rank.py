"""One rank of `bench.distributed`: joins the others, loads the base, and carries out the passes that rank 0 is given.

What rank 0 found goes to the file that it was given, as JSON. Started alone, it is the engine of one process.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import torch

from bench.batches import Shape, random_batch
from bench.collectives import Collectives
from trainer.distributed.engine import DistributedEngine, follow
from trainer.distributed.group import RankGroup, start_group
from trainer.distributed.layer_gathers import LayerGathers
from trainer.distributed.loading import load_sharded_base
from trainer.engine.base_model import BaseModel, load_base_model
from trainer.engine.engine import EngineSettings, TrainingEngine
from trainer.engine.heap import Heap
from trainer.engine.ranks import Ranks
from wire.conversion import to_datums
from wire.engine import LoraConfig, LossChoice

MODEL = UUID(int=1)
SETTINGS = EngineSettings(max_tokens_per_pass=4096, min_shard_tokens=1, threads=1, canary=False)
_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Job:
    """base: its folder. shapes: of the batches, each of which is passed `rounds` times after one warm-up."""

    base: str
    rank: int
    shapes: dict[str, Shape]
    rounds: int
    out: str

    @classmethod
    def read(cls, text: str) -> Job:
        """Of `to_json`."""
        found = json.loads(text)
        shapes = {name: Shape(**shape) for name, shape in found.pop("shapes").items()}
        return cls(**found, shapes=shapes)

    def to_json(self) -> str:
        """For the command line of a rank."""
        return json.dumps(asdict(self))


class _Measured(TrainingEngine):
    """Counts what its gradient passes cost, warm-ups apart: before the first of all, a forward sees what a token keeps.
    cpu_s: of all threads of the process."""

    def __init__(self, base: BaseModel, rounds: int, ranks: Ranks | None) -> None:
        super().__init__(base, SETTINGS, ranks=ranks)
        self._until_warm_up = 0
        self._rounds = rounds
        self._collectives = Collectives()
        self._gathers = base.gathers
        self._num_passes = 0
        self._waited_s = self._cpu_s = 0.0

    def _gradient_pass(self, *arguments: Any) -> Any:
        if not self._until_warm_up:
            self._until_warm_up = self._rounds
            return super()._gradient_pass(*arguments)
        self._until_warm_up -= 1
        self._num_passes += 1
        waited_s, cpu_s = self._waited_so_far(), time.process_time()
        with self._collectives.counted():
            result = super()._gradient_pass(*arguments)
        self._waited_s += self._waited_so_far() - waited_s
        self._cpu_s += time.process_time() - cpu_s
        return result

    def _waited_so_far(self) -> float:
        return self._gathers.traffic.waited_s() if isinstance(self._gathers, LayerGathers) else 0.0

    def figures(self) -> dict[str, Any]:
        """Of a pass, the mean over all: gather_waited_s is how long it stood still for weights."""
        return {
            "gather_waited_s": self._waited_s / self._num_passes,
            "cpu_s": self._cpu_s / self._num_passes,
            "collectives": {
                name: {what: figure / self._num_passes for what, figure in traffic.items()}
                for name, traffic in self._collectives.to_json().items()
            },
        }


def main(job: Job) -> None:
    Heap().keep_freed()
    torch.set_num_threads(1)
    if "RANK" not in os.environ:
        engine = _Measured(load_base_model(job.base), job.rounds, None)
        Path(job.out).write_text(json.dumps({**_passes(engine, engine, job), "ranks": [engine.figures()]}))
        return
    group = start_group("cpu", _LIMIT_S)
    base = load_sharded_base(job.base, ranks=group)
    engine = _Measured(base, job.rounds, group)
    group.meet()
    speeds = _speeds(base, group, job.rank)
    if group.rank > 0:
        follow(engine, group)
        group.gathered(engine.figures())
    else:
        leading = DistributedEngine(engine, group)
        found = _passes(leading, engine, job)
        leading.end()
        Path(job.out).write_text(json.dumps({**found, **speeds, "ranks": group.gathered(engine.figures())}))
    group.end()
    # A thread of gloo's that lets go of its last tensor while the interpreter is torn down ends the process by SIGABRT.
    os._exit(0)


def _passes(leading: DistributedEngine | TrainingEngine, engine: TrainingEngine, job: Job) -> dict[str, Any]:
    lora, batches = LoraConfig(rank=job.rank), dict[str, Any]()
    for name, shape in job.shapes.items():
        leading.open(MODEL, lora, None, None)
        datums = to_datums(random_batch(shape, engine.info.vocab_size, 0))
        plan = leading.plan(datums)
        seconds = list[float]()
        for _ in range(1 + job.rounds):
            started = time.perf_counter()
            leading.forward_backward(MODEL, datums, LossChoice("cross_entropy"), plan)
            seconds.append(time.perf_counter() - started)
        gradient = engine._sessions.get(MODEL).gradient  # pyright: ignore[reportPrivateUsage]
        digest = hashlib.sha256(gradient.numpy().tobytes()).hexdigest()
        batches[name] = {"seconds": seconds[1:], "gradient": digest}
    return {"batches": batches}


def _speeds(base: BaseModel, group: RankGroup, rank: int) -> dict[str, float]:
    """Bytes a second that this rank receives in bare gathers and in bare exchanges, and seconds of a vote."""
    gathers = base.gathers
    assert isinstance(gathers, LayerGathers)
    like = torch.zeros(base.adapter(LoraConfig(rank=rank)).layout.num_parameters)
    before = gathers.traffic.received_bytes
    gather_s = _median_s(gathers.idle_forward, group)
    gathered = (gathers.traffic.received_bytes - before) / _REPEATS

    def exchange() -> None:
        shards = group.shard_sum(group.size, like)
        shards.add(group.rank, like)
        shards.total()

    def vote() -> None:
        with group.agreed():
            pass

    received = like.nbytes * 2 * (group.size - 1) / group.size
    return {
        "gather_bytes_per_s": gathered / gather_s,
        "exchange_bytes_per_s": received / _median_s(exchange, group),
        "vote_s": _median_s(vote, group),
    }


_REPEATS = 5


def _median_s(work: Any, group: RankGroup) -> float:
    seconds = list[float]()
    for _ in range(_REPEATS):
        group.meet()
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main(Job.read(sys.argv[1]))
