"""The engine of several ranks behind the port of one: rank 0 sends each call, and all ranks carry it out.

Rank 0 has the worker, which knows nothing of ranks. The others follow: they receive calls until there are none. What
reads no rank's memory but its own (plans, facts of the base) is answered by rank 0 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from trainer.distributed.group import Call, FailedElsewhere, RankGroup
from trainer.engine.checkpoint import SessionSnapshot
from trainer.engine.engine import TrainingEngine
from trainer.engine.vision.features import Encoded
from wire.datums import Datum
from wire.engine import (
    NO_PICTURES,
    AdamParams,
    BaseModelInfo,
    DatumTensors,
    LoraConfig,
    LossChoice,
    PassResult,
    Pictures,
    StepResult,
)
from wire.errors import DeviceLost, HeadwayError
from wire.plans import Plan, PlanSettings, StepPlan
from wire.process.faults import fault_point
from wire.trajectories import Float32Array

log = structlog.get_logger(__name__)

_END = "end"


class DistributedEngine:
    """`wire.engine.Engine` on rank 0 of a group. Raises DeviceLost where the group is broken: the process must end."""

    def __init__(self, engine: TrainingEngine, group: RankGroup) -> None:
        self._engine = engine
        self._group = group
        self._lost: DeviceLost | None = None

    @property
    def info(self) -> BaseModelInfo:
        """Facts of the base model."""
        return self._engine.info

    @property
    def losses(self) -> Mapping[str, Mapping[str, float | None]]:
        """See `TrainingEngine.losses`."""
        return self._engine.losses

    def open(self, model: UUID, lora: LoraConfig, adapter: Path | None, state: Path | None) -> None:
        """See `TrainingEngine.open`. Rank 0 reads the files."""
        self._everywhere(TrainingEngine.open, model, lora, adapter, state)

    def close(self, model: UUID) -> None:
        """See `TrainingEngine.close`. Nothing where the group is broken: what its ranks hold ends with them."""
        if self._lost is None:
            self._everywhere(TrainingEngine.close, model)

    def holds(self, model: UUID) -> bool:
        """See `TrainingEngine.holds`. Of all ranks."""
        return self._everywhere(TrainingEngine.holds, model)

    def places(self) -> dict[str, tuple[int, int]]:
        """See `TrainingEngine.places`. Of rank 0; the others hold the same."""
        return self._engine.places()

    def encoded(self) -> Encoded | None:
        """See `TrainingEngine.encoded`. Of rank 0; each encodes what its own shards show."""
        return self._engine.encoded()

    def plan(self, datums: Sequence[Datum], num_substeps: int = 1, settings: PlanSettings | None = None) -> Plan:
        """See `TrainingEngine.plan`. It does not depend on the number of ranks."""
        return self._engine.plan(datums, num_substeps, settings)

    def forward_backward(
        self,
        model: UUID,
        datums: Sequence[Datum],
        loss: LossChoice,
        plan: Plan | None = None,
        pictures: Pictures = NO_PICTURES,
    ) -> PassResult:
        """See `TrainingEngine.forward_backward`."""
        plan = plan or self.plan(datums, loss.num_substeps)
        return self._everywhere(TrainingEngine.forward_backward, model, datums, loss, plan, pictures)

    def forward(
        self, model: UUID, datums: Sequence[Datum], plan: Plan | None = None, pictures: Pictures = NO_PICTURES
    ) -> list[DatumTensors]:
        """See `TrainingEngine.forward`."""
        return self._everywhere(TrainingEngine.forward, model, datums, plan or self.plan(datums), pictures)

    def evaluate(
        self,
        model: UUID,
        datums: Sequence[Datum],
        loss: LossChoice,
        plan: Plan | None = None,
        pictures: Pictures = NO_PICTURES,
    ) -> PassResult:
        """See `TrainingEngine.evaluate`."""
        plan = plan or self.plan(datums, loss.num_substeps)
        return self._everywhere(TrainingEngine.evaluate, model, datums, loss, plan, pictures)

    def backward(
        self,
        model: UUID,
        datums: Sequence[Datum],
        weights: Sequence[Float32Array],
        plan: Plan | None = None,
        pictures: Pictures = NO_PICTURES,
    ) -> PassResult:
        """See `TrainingEngine.backward`."""
        plan = plan or self.plan(datums)
        return self._everywhere(TrainingEngine.backward, model, datums, weights, plan, pictures)

    def plan_step(self) -> StepPlan:
        """See `TrainingEngine.plan_step`."""
        return self._engine.plan_step()

    def optim_step(self, model: UUID, adam: AdamParams, plan: StepPlan | None = None) -> StepResult:
        """See `TrainingEngine.optim_step`. Every rank makes the whole step: it is short, and nothing has to be sent."""
        return self._everywhere(TrainingEngine.optim_step, model, adam, plan or self.plan_step())

    def snapshot(self, model: UUID) -> SessionSnapshot:
        """See `TrainingEngine.snapshot`."""
        return self._everywhere(TrainingEngine.snapshot, model)

    def end(self, *, is_stopped: bool = False) -> None:
        """Send the followers home. is_stopped: because somebody wants this group to stop."""
        self._group.send(_END, is_stopped)

    def _everywhere(self, method: Callable[..., Any], *arguments: Any) -> Any:
        if self._lost is not None:  # a send to one that stands still would take as long as the first one did
            raise type(self._lost)(self._lost.message)
        try:
            return self._sent(method, *arguments)
        except DeviceLost as lost:
            self._lost = lost
            raise

    def _sent(self, method: Callable[..., Any], *arguments: Any) -> Any:
        fault_point("call:before-send")
        return _carry_out(self._engine, self._group, self._group.send(method.__name__, *arguments))


def follow(engine: TrainingEngine, group: RankGroup) -> bool:
    """Carry out what rank 0 sends, until it sends no more; whether that is because the group shall stop. Refusals are
    rank 0's to report. Raises DeviceLost where the group is broken."""
    while (call := group.receive()).method != _END:
        fault_point("call:after-receive")
        try:
            _carry_out(engine, group, call)
        except DeviceLost:
            raise
        except (HeadwayError, FailedElsewhere):
            pass
        except Exception:
            log.exception("call_failed", method=call.method)
    return call.arguments[0]


def _carry_out(engine: TrainingEngine, group: RankGroup, call: Call) -> Any:
    """On this rank, as on all others, which compare how it has ended. Raises what the method raises, and DeviceLost."""
    try:
        outcome = getattr(engine, call.method)(*call.arguments)
    except DeviceLost:
        raise
    except Exception as error:
        group.conclude(call, _described(engine, call, error))
        raise
    group.conclude(call, _described(engine, call, outcome))
    return outcome


def _described(engine: TrainingEngine, call: Call, outcome: object) -> str:
    """The same on all ranks, or they have parted."""
    match outcome:
        case HeadwayError():
            return f"refused: {outcome.code}"
        case Exception():
            return "failed"
        case StepResult():
            return f"stepped to {engine.checksum(call.arguments[0])}"
        case bool():
            return f"answered {outcome}"
        case _:
            return "done"
