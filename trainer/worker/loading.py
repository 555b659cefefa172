"""Open a model at a node: from the node's files or, where it has none, from those of the nearest node above that has,
and by computing the steps since then again."""

from __future__ import annotations

from uuid import UUID

import structlog

from store.blob_stores import BlobStore
from store.checkpoint_stores import CheckpointStore
from store.database import Database
from store.oplog import work
from store.oplog.operation import ModelState
from store.oplog.unsaved import Node, chain_to, step_and_gradients
from trainer.worker.passes import Passes
from wire.engine import AdamParams, Engine, LoraConfig
from wire.errors import CorruptCheckpoint, Gone
from wire.payload import decode
from wire.plans import decode_step_plan
from wire.process.faults import fault_point

log = structlog.get_logger(__name__)


class Loading:
    """Brings nodes of the tree into the engine."""

    def __init__(
        self, database: Database, blobs: BlobStore, checkpoints: CheckpointStore, engine: Engine, passes: Passes
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._checkpoints = checkpoints
        self._engine = engine
        self._passes = passes

    def open(self, model: ModelState, checkpoint_id: UUID | None) -> int:
        """Bring a node's weights and moments into the engine (None: the seeded start); how many steps were computed
        again for that.

        Fresh moments where the optimizer state of a node that has files was thinned. Raises CorruptCheckpoint naming
        the file that is missing or altered, Gone for a node that is kept no longer.
        """
        lora = LoraConfig(**model.lora)
        if checkpoint_id is None:
            self._engine.open(model.id, lora, None, None)
            return 0
        first, *others = self._chain(checkpoint_id)
        if first.is_saved:
            self._open_files(model, lora, first)
            steps = others
        else:
            self._engine.open(model.id, lora, None, None)
            steps = [first, *others]
        for number, node in enumerate(steps, 1):
            log.info("step_computed_again", model=model.slug, checkpoint=node.name, number=number, of=len(steps))
            self._compute_again(model, node)
        return len(steps)

    def _compute_again(self, model: ModelState, node: Node) -> None:
        """The gradients that its step consumed, by their plans, and the step by its own: the same bits as then."""
        if node.files_are_removed or node.operation_id is None:
            raise Gone(f"{node.name} is kept no longer, and what it was computed from is gone")
        with self._database.connection() as connection:
            step, gradients = step_and_gradients(connection, node.operation_id)
        for gradient in gradients:
            self._passes.compute_again(gradient)
        header, _ = decode(work.read_payload(step, self._blobs))
        assert step.plan is not None, "a step without files has a plan"
        fault_point("recompute:before-step")
        self._engine.optim_step(model.id, AdamParams(**header), decode_step_plan(step.plan))
        self._passes.forget(model.id)

    def _open_files(self, model: ModelState, lora: LoraConfig, node: Node) -> None:
        try:
            self._fetch_and_open(model, lora, node)
        except CorruptCheckpoint:
            # The head may have moved on and the node's state been thinned since the row was read.
            (seen, *_) = self._chain(node.id)
            if seen.state_is_removed == node.state_is_removed:
                raise
            self._fetch_and_open(model, lora, seen)

    def _fetch_and_open(self, model: ModelState, lora: LoraConfig, node: Node) -> None:
        try:
            files = self._checkpoints.fetch(node.files_model_id, node.files_id, state=not node.state_is_removed)
            if node.state_is_removed:
                log.warning(
                    "fresh_moments", model=model.slug, checkpoint=node.name, reason="its optimizer state was thinned"
                )
            self._engine.open(model.id, lora, files.adapter, files.state)
        finally:
            self._checkpoints.release(node.files_model_id, node.files_id)

    def _chain(self, checkpoint_id: UUID) -> list[Node]:
        with self._database.connection() as connection:
            return chain_to(connection, checkpoint_id)
