"""Runs and checkpoints as the SDK's RestClient reads them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query

from server.catalog.bases import public_name
from server.catalog.run_ids import run_id
from server.checkpoint_names import runs
from server.checkpoint_names.paths import Kind, TinkerPath
from server.checkpoint_names.types import NamedCheckpoint
from server.protocols.tinker.shared.schemas import TinkerReply
from server.values.metadata import as_texts

LimitParam = Annotated[int, Query(ge=0, le=1000)]
OffsetParam = Annotated[int, Query(ge=0, le=2**31)]
AccessScope = Annotated[Literal["owned", "accessible"], Query()]
"""A team sees what is its own: both are the same."""


class Cursor(TinkerReply):
    """Which part of a list this is."""

    offset: int
    limit: int
    total_count: int


class Checkpoint(TinkerReply):
    """A checkpoint by one of its names."""

    checkpoint_id: str
    checkpoint_type: Kind
    time: datetime
    tinker_path: str
    size_bytes: int
    public: bool
    user_metadata: dict[str, str] | None
    expires_at: datetime | None
    base_model: str

    @classmethod
    def of(cls, found: NamedCheckpoint, run: str | None = None) -> Checkpoint:
        """As clients read it. run: what the path calls its run, by default the run's id."""
        return cls(
            checkpoint_id=found.checkpoint_id,
            checkpoint_type=found.kind,
            time=found.created_at,
            tinker_path=found.path if run is None else str(TinkerPath(run, found.kind, found.name)),
            size_bytes=found.size_bytes,
            public=found.is_public,
            user_metadata=as_texts(found.user_metadata),
            expires_at=found.expires_at,
            base_model=public_name(found.base),
        )


class TrainingRun(TinkerReply):
    """A run. `last_checkpoint`: the newest one that can be trained further."""

    training_run_id: str
    base_model: str
    model_owner: str
    is_lora: bool = True
    corrupted: bool = False
    lora_rank: int | None
    last_request_time: datetime
    last_checkpoint: Checkpoint | None
    last_sampler_checkpoint: Checkpoint | None
    user_metadata: dict[str, str] | None

    @classmethod
    def of(cls, run: runs.TrainingRun, owner: str) -> TrainingRun:
        """As clients read it."""
        newest = {kind: Checkpoint.of(found) for kind, found in run.newest.items()}
        return cls(
            training_run_id=run_id(run.model),
            base_model=public_name(run.base),
            model_owner=owner,
            lora_rank=(run.model.lora or {}).get("rank"),
            last_request_time=run.last_used_at,
            last_checkpoint=newest.get("training"),
            last_sampler_checkpoint=newest.get("sampler"),
            user_metadata=as_texts(run.model.user_metadata),
        )
