"""The models that the engine holds: under which lease, at which position of the head, and how much of each is in no
file yet."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from store.oplog.operation import ModelState
from store.oplog.work import Lease
from trainer.worker.instruments import TrainerMetrics
from trainer.worker.loading import Loading
from trainer.worker.passes import Passes
from trainer.worker.snapshots import SnapshotPolicy, Snapshots
from wire.engine import Engine

log = structlog.get_logger(__name__)

_IDLE_SNAPSHOT_S, _AT_ONCE = 5.0, SnapshotPolicy(every_steps=1)
"""A model on which nothing was done for so long has its head written: whoever goes on may be another trainer."""


@dataclass(slots=True)
class _Position:
    """Where a model in the engine is.

    unsaved_head_id: the head, where it has no files. unsaved_steps, unsaved_s: since a node that has some, or will
    soon; and the seconds of work on the model since then.
    """

    lease: Lease
    head_version: int
    unsaved_head_id: UUID | None = None
    unsaved_steps: int = 0
    unsaved_s: float = 0.0
    used_at: float = field(default_factory=time.monotonic)

    def note_saved(self) -> None:
        """The head has files, or will soon."""
        self.unsaved_head_id, self.unsaved_steps, self.unsaved_s = None, 0, 0.0


class OpenModels:
    """Opens models at their heads, and forgets them when what the engine holds is not the head's any more."""

    def __init__(
        self,
        engine: Engine,
        loading: Loading,
        passes: Passes,
        snapshots: Snapshots,
        policy: SnapshotPolicy,
        metrics: TrainerMetrics,
    ) -> None:
        self._engine = engine
        self._loading = loading
        self._passes = passes
        self._snapshots = snapshots
        self._policy = policy
        self._metrics = metrics
        self._positions: dict[UUID, _Position] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, model_id: UUID) -> bool:
        return model_id in self._positions

    def lease_of(self, model_id: UUID) -> Lease | None:
        """The lease under which the model was opened."""
        position = self._positions.get(model_id)
        return position.lease if position else None

    def bring_to_head(self, lease: Lease, model: ModelState) -> None:
        """Have the engine hold the head, and on top of it the gradients that the next step will apply."""
        position = self._positions.get(model.id)
        current = position is not None and position.lease == lease and position.head_version == model.head_version
        if position is not None and current and self._engine.holds(model.id):
            position.used_at = time.monotonic()
            return
        self.load(lease, model)

    def load(self, lease: Lease, model: ModelState) -> None:
        """As `bring_to_head`, whatever the engine holds."""
        self.forget(model.id)
        started = time.monotonic()
        with self._metrics.phase("load"):
            num_computed = self._loading.open(model, model.head_checkpoint_id)
        computing_s = time.monotonic() - started if num_computed else 0.0
        with self._metrics.phase("replay"):
            self._passes.replay(model)
        seconds = round(time.monotonic() - started, 4)
        log.info("model_opened", model=model.slug, step=model.head_step, seconds=seconds, lora=dict(model.lora))
        unsaved_head_id = model.head_checkpoint_id if num_computed else None
        self._positions[model.id] = _Position(lease, model.head_version, unsaved_head_id, num_computed, computing_s)

    def open_node(self, model: ModelState, checkpoint_id: UUID) -> None:
        """Another node than the head; the next operation finds that the model has to be loaded again."""
        self.forget(model.id)
        with self._metrics.phase("load"):
            self._loading.open(model, checkpoint_id)

    def forget(self, model_id: UUID) -> None:
        """What the engine holds of this model is of no use any more."""
        self._positions.pop(model_id, None)
        self._passes.forget(model_id)
        self._engine.close(model_id)

    def forget_all(self) -> None:
        """See `forget`."""
        for model_id in list(self._positions):
            self.forget(model_id)

    def note_work(self, model_id: UUID, seconds: float) -> None:
        """For so long the engine worked on the model."""
        if (position := self._positions.get(model_id)) is not None:
            position.unsaved_s += seconds

    def note_being_promoted(self, model_id: UUID) -> None:
        """The engine has made a step on it whose node is not the head yet: what it holds is no file's and no node's."""
        if (position := self._positions.get(model_id)) is not None:
            position.note_saved()
            position.used_at = time.monotonic()

    def note_promoted(self, lease: Lease, model: ModelState) -> None:
        """A step has moved the head to a node with files."""
        self._passes.forget(model.id)
        self._positions[model.id] = _Position(lease, model.head_version + 1)

    def note_stepped(self, model: ModelState, checkpoint_id: UUID) -> None:
        """A step has moved the head to this node, which has no files."""
        self._passes.forget(model.id)
        position = self._positions[model.id]
        position.head_version, position.unsaved_head_id = model.head_version + 1, checkpoint_id
        position.unsaved_steps += 1

    def note_saved(self, model: ModelState, checkpoint_id: UUID) -> None:
        """This node has files now."""
        position = self._positions.get(model.id)
        if position is None:
            return
        if model.head_checkpoint_id is None:
            position.head_version += 1  # the start has become a node, and nothing else has changed
        elif checkpoint_id == model.head_checkpoint_id:
            position.note_saved()

    def snapshot_if_due(self, model_id: UUID) -> None:
        """Have the head's files written in the background, where it has none and it is time."""
        self._snapshot_by(self._policy, model_id)

    def idle_for(self, seconds: float) -> list[tuple[UUID, Lease]]:
        """The models on which nothing was done for so long. Of those that are idle for a while, heads are written."""
        idle_s = {model_id: time.monotonic() - position.used_at for model_id, position in self._positions.items()}
        for model_id in [model_id for model_id, idle in idle_s.items() if idle > _IDLE_SNAPSHOT_S]:
            self._snapshot_by(_AT_ONCE, model_id)
        return [(model_id, self._positions[model_id].lease) for model_id, idle in idle_s.items() if idle > seconds]

    def close(self) -> None:
        """What is being written in the background is finished."""
        self._snapshots.close()

    def _snapshot_by(self, policy: SnapshotPolicy, model_id: UUID) -> None:
        position = self._positions.get(model_id)
        if position is None or position.unsaved_head_id is None or not self._snapshots.takes(model_id):
            return
        if not policy.is_due(position.unsaved_steps, position.unsaved_s) or not self._engine.holds(model_id):
            return
        try:
            snapshot = self._engine.snapshot(model_id)
        except Exception as error:  # what is wrong, the next operation or a save finds out and says
            log.warning("no_snapshot", model=str(model_id), reason=str(error).partition("\n")[0])
        else:
            self._snapshots.write_later(position.lease, position.unsaved_head_id, snapshot)
        position.note_saved()
