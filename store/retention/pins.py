"""Pins: a checkpoint that an operator wants whole, whatever the policy says."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.checkpoint_references import CheckpointReference, as_uuid, referred_to
from store.tables import CheckpointRow, EventRow, ModelRow, TeamRow
from wire.errors import Conflict, NotFound


def pin(session: Session, model: str, checkpoint: str, *, pinned: bool) -> CheckpointRow:
    """Pin or unpin the files of a checkpoint of any team. Raises NotFound, and Conflict for a name of several models.

    The root of a fork has the files of the node that it was forked from, so that node is pinned. Raises Conflict for a
    pin that comes too late.
    """
    found = _find_model(session, model)
    named = _find_checkpoint(session, found, checkpoint)
    row = session.get_one(CheckpointRow, named.files_id, with_for_update=True)
    if pinned and (row.files_removed_at or row.state_removed_at):
        what = "its files were" if row.files_removed_at else "its optimizer state was"
        raise Conflict(f"{row.name} cannot be pinned any more: {what} removed by an earlier collection")
    row.pinned_at = func.clock_timestamp() if pinned else None
    action = "pin" if pinned else "unpin"
    session.add(EventRow(team_id=found.team_id, action=action, subject_id=row.id, detail={"checkpoint": row.name}))
    session.flush()
    return row


def _find_model(session: Session, reference: str) -> ModelRow:
    """By id, slug, or TEAM/SLUG."""
    team, _, slug = reference.rpartition("/")
    query = select(ModelRow).join(TeamRow, TeamRow.id == ModelRow.team_id)
    if (model_id := as_uuid(reference)) is not None:
        query = query.where(ModelRow.id == model_id)
    else:
        query = query.where(func.lower(ModelRow.slug) == slug.lower())
        query = query.where(TeamRow.name == team) if team else query
    models = session.scalars(query).all()
    if not models:
        raise NotFound(f"there is no trainable model {reference!r}; see 'headway status'")
    if len(models) > 1:
        raise Conflict(f"{len(models)} teams have a model {reference!r}: name it TEAM/{slug}, or by its id")
    return models[0]


def _find_checkpoint(session: Session, model: ModelRow, reference: str) -> CheckpointRow:
    """As everywhere, or `head`."""
    if reference == "head":
        wanted = CheckpointReference(checkpoint_id=model.head_checkpoint_id)
    else:
        wanted = CheckpointReference.of(reference)
    row = session.scalar(referred_to(model.id, wanted))
    if row is None:
        raise NotFound(f"model {model.slug!r} has no checkpoint {reference!r}")
    return row
