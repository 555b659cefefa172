"""Open a model at its head: from its checkpoint's files, as far as retention has kept them."""

from __future__ import annotations

from uuid import UUID

import structlog

from store.checkpoint_stores import CheckpointStore
from store.database import Database
from store.oplog.operation import ModelState
from store.tables import CheckpointRow
from wire.engine import Engine, LoraConfig
from wire.errors import CorruptCheckpoint

log = structlog.get_logger(__name__)


def open_head(database: Database, checkpoints: CheckpointStore, engine: Engine, model: ModelState) -> None:
    """Bring the head's weights and moments into the engine; without a head, the seeded start.

    Fresh moments where the optimizer state was thinned. Raises CorruptCheckpoint naming the file that is missing or
    altered.
    """
    lora = LoraConfig(**model.lora)
    if model.head_checkpoint_id is None:
        engine.open(model.id, lora, None, None)
        return
    head = _read(database, model.head_checkpoint_id)
    try:
        _open(checkpoints, engine, model, lora, head)
    except CorruptCheckpoint:
        # The head may have moved on and its state been thinned since the row was read.
        seen, head = head.state_removed_at, _read(database, model.head_checkpoint_id)
        if head.state_removed_at == seen:
            raise
        _open(checkpoints, engine, model, lora, head)


def _read(database: Database, checkpoint_id: UUID) -> CheckpointRow:
    with database.session() as session:
        return session.get_one(CheckpointRow, checkpoint_id)


def _open(
    checkpoints: CheckpointStore, engine: Engine, model: ModelState, lora: LoraConfig, head: CheckpointRow
) -> None:
    has_state = head.state_removed_at is None
    try:
        files = checkpoints.fetch(head.files_model_id, head.files_id, state=has_state)
        if not has_state:
            log.warning(
                "fresh_moments", model=model.slug, checkpoint=head.name, reason="its optimizer state was thinned"
            )
        engine.open(model.id, lora, files.adapter, files.state)
    finally:
        checkpoints.release(head.files_model_id, head.files_id)
