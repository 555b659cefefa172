"""One optimizer step, from the op log to a head that is being served.

AdamW in memory; files staged, hashed, fsynced, renamed; the checkpoint inserted as `staged`; samplers load it; one
fenced transaction commits checkpoint, operation and head together.
"""

from __future__ import annotations

import uuid
from typing import Any

from store.blobs import BlobStore
from store.checkpoint_stores import CheckpointStore
from store.checkpoint_stores.base import ADAPTER, STATE
from store.database import Database
from store.oplog import work
from store.oplog.work import Lease
from store.tables import CheckpointRow, ModelRow, OperationRow
from trainer.promotion import Promotion
from trainer.summaries import summarise_step
from wire.engine import AdamParams, Engine
from wire.errors import HeadwayError, NothingAccumulated
from wire.payload import decode, encode


class Stepping:
    """Handler of optim_step. When it raises anything but NothingAccumulated, the weights in the engine are no
    checkpoint's, and the model has to be loaded again."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        checkpoints: CheckpointStore,
        engine: Engine,
        promotion: Promotion,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._checkpoints = checkpoints
        self._engine = engine
        self._promotion = promotion

    def optim_step(self, lease: Lease, operation: OperationRow, model: ModelRow) -> None:
        """Apply the accumulated gradients. Raises NothingAccumulated, Superseded, PromotionRejected, LeaseLost."""
        with self._database.session() as session:
            gradients = work.pending_gradients(session, model.id)
        if not gradients:
            raise NothingAccumulated("there are no accumulated gradients; call forward-backward first")
        header, _ = decode(work.read_payload(operation, self._blobs))
        adam = AdamParams(**header)
        stepped = self._engine.optim_step(model.id, adam)
        checkpoint = self._stage(lease, model, summarise_step(gradients, stepped, adam))
        self._promote(lease, operation, model, checkpoint)

    def _stage(self, lease: Lease, model: ModelRow, facts: dict[str, Any]) -> CheckpointRow:
        checkpoint_id = uuid.uuid4()
        with self._checkpoints.stage(model.id, checkpoint_id) as staged:
            self._engine.save(model.id, staged / ADAPTER, staged / STATE)
            manifest = self._checkpoints.publish(model.id, checkpoint_id, staged)
        assert model.base_id is not None
        with self._database.session() as session:
            parent = session.get(CheckpointRow, model.head_checkpoint_id) if model.head_checkpoint_id else None
            step = parent.step + 1 if parent else 1
            checkpoint = CheckpointRow(
                id=checkpoint_id,
                model_id=model.id,
                parent_id=model.head_checkpoint_id,
                files_id=checkpoint_id,
                files_model_id=model.id,
                step=step,
                name=f"{step:04d}-{checkpoint_id.hex[:8]}",
                status="staged",
                manifest=manifest.to_json(),
                **facts,
            )
            work.stage_checkpoint(session, lease, checkpoint, model.base_id)
        return checkpoint

    def _promote(self, lease: Lease, operation: OperationRow, model: ModelRow, checkpoint: CheckpointRow) -> None:
        assert model.base_id is not None
        answer = {
            "step": checkpoint.step,
            "checkpoint_id": str(checkpoint.id),
            "sampler_path": self._checkpoints.describe(model.id, checkpoint.id, ADAPTER),
            "state_path": self._checkpoints.describe(model.id, checkpoint.id, STATE),
        }
        try:
            self._promotion.wait_until_loaded(model.base_id, checkpoint.adapter_name)
            with self._database.session() as session:
                work.commit_step(session, lease, operation, model, checkpoint.id, encode(answer))
        except HeadwayError:
            with self._database.session() as session:
                work.reject_checkpoint(session, checkpoint.id)
            raise
