"""What training calls use of a server process."""

from __future__ import annotations

from dataclasses import dataclass

from server.auth.key_uses import KeyUses
from server.metrics.instruments import ServerMetrics
from server.process.shutdown import Shutdown
from server.training.places import TrainingPlaces
from store.blob_stores import BlobStore
from store.database import AsyncDatabase
from store.notify import AsyncListener
from store.oplog.waiting import WaitingCalls


@dataclass(frozen=True, slots=True)
class Training:
    """Where operations are logged and their results come from; how much may be sent, and how long is waited.

    `background`: for what goes on when a call has ended. `batch_tokens`: the most of recorded rollouts in one batch.
    """

    database: AsyncDatabase
    background: AsyncDatabase
    blobs: BlobStore
    listener: AsyncListener
    waiting_calls: WaitingCalls
    shutdown: Shutdown
    metrics: ServerMetrics
    key_uses: KeyUses
    places: TrainingPlaces
    batch_tokens: int
    operation_timeout_s: float
