"""Saves: the files of a node, a name for it or a sampling session on it, and samplers that hold it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from store.blob_stores import BlobStore
from store.database import Database
from store.oplog import work
from store.oplog.operation import ModelState, Operation
from store.oplog.saves import (
    SavedNode,
    add_root,
    complete_save,
    node_to_save,
    require_free_name,
    want_adapter,
)
from store.oplog.work import Lease
from trainer.worker.cancellation import Cancellation
from trainer.worker.files import NodeFiles
from trainer.worker.instruments import TrainerMetrics
from trainer.worker.promotion import Promotion
from trainer.worker.snapshots import Snapshots
from wire.adapter_names import adapter_name
from wire.engine import Engine
from wire.errors import Gone, Unavailable
from wire.saves import SaveRequest, decode_save

log = structlog.get_logger(__name__)

_SNAPSHOT_S = 120.0
"""For a snapshot of the same node that is under way; then the save writes the files itself."""
_WANTED_S = 600.0
"""For so long samplers hold the node whether or not anybody asks for it; asking prolongs that."""

OpenNode = Callable[[ModelState, UUID], None]
"""Brings a node other than the head into the engine, in the head's place."""


@dataclass(frozen=True, slots=True)
class UnfinishedSave:
    """A save whose node has its files."""

    lease: Lease
    operation: Operation
    model: ModelState
    node: SavedNode
    request: SaveRequest


class Saving:
    """Handler of save. The engine holds the head."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        engine: Engine,
        files: NodeFiles,
        snapshots: Snapshots,
        cancellation: Cancellation,
        open_node: OpenNode,
        metrics: TrainerMetrics,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._engine = engine
        self._files = files
        self._snapshots = snapshots
        self._cancellation = cancellation
        self._open_node = open_node
        self._metrics = metrics

    def write(self, lease: Lease, operation: Operation, model: ModelState) -> UnfinishedSave:
        """Write the files of the node that is to be saved, unless it has them. Raises NameTaken, Gone for a node that
        is kept no longer, NonFinite, LeaseLost, OSError where the disk refuses."""
        request = decode_save(work.read_payload(operation, self._blobs))
        with self._database.connection() as connection:
            require_free_name(connection, model.id, request)
        return UnfinishedSave(lease, operation, model, self._node(lease, operation, model, request), request)

    def complete(self, save: UnfinishedSave) -> UUID:
        """Give the node its name, or a session; its id. From any thread. Raises NameTaken, Superseded, LeaseLost."""
        with self._database.connection() as connection:
            complete_save(connection, save.lease, save.operation, save.node, save.request)
        log.info("saved", checkpoint=save.node.name, use=save.request.use.value, name=save.request.name)
        return save.node.id

    def complete_when_held(self, save: UnfinishedSave, promotion: Promotion) -> UUID:
        """As `complete`, once samplers hold the node. Raises PromotionRejected where every one refuses it."""
        self._have_it_held(save, promotion)
        return self.complete(save)

    def _node(self, lease: Lease, operation: Operation, model: ModelState, request: SaveRequest) -> SavedNode:
        wanted_id = request.checkpoint_id or model.head_checkpoint_id
        if wanted_id is None:
            return self._root(lease, operation, model)
        node = self._look(model.id, wanted_id)
        if not node.is_saved:
            self._snapshots.wait_for(model.id, wanted_id, _SNAPSHOT_S)
            node = self._look(model.id, wanted_id)
        if node.files_are_removed:
            raise Gone(f"the files of {node.name} were removed by retention, and it cannot be computed again")
        if node.is_saved:
            return node
        if wanted_id != model.head_checkpoint_id:
            self._open_node(model, wanted_id)
        with self._metrics.phase("save"):
            self._files.save(lease, wanted_id, self._engine.snapshot(model.id))
        return self._look(model.id, wanted_id)

    def _root(self, lease: Lease, operation: Operation, model: ModelState) -> SavedNode:
        """No step was made yet: the seeded start becomes a node."""
        checkpoint_id = uuid.uuid4()
        with self._metrics.phase("save"):
            manifest = self._files.write(lease, checkpoint_id, self._engine.snapshot(model.id))
        with self._database.connection() as connection:
            add_root(connection, lease, operation, model, checkpoint_id, manifest.to_json())
        return self._look(model.id, checkpoint_id)

    def _look(self, model_id: UUID, checkpoint_id: UUID) -> SavedNode:
        with self._database.connection() as connection:
            return node_to_save(connection, model_id, checkpoint_id)

    def _have_it_held(self, save: UnfinishedSave, promotion: Promotion) -> None:
        """Wait until a sampler holds it, as a promotion does; if none manages it in time it is saved all the same."""
        base_id, check = save.model.base_id, self._cancellation.check_of(save.lease, save.operation)
        with self._database.connection() as connection:
            want_adapter(connection, base_id, save.node.id, _WANTED_S)
        try:
            with self._metrics.phase("promote"):
                promotion.wait_until_loaded(base_id, adapter_name(save.node.files_id), check)
        except Unavailable as late:
            log.warning("saved_before_loaded", checkpoint=save.node.name, reason=late.message)
