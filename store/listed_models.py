"""Which models lists show, quotas count and retention leaves alone.

Clients of the Tinker API make a model each time a script starts. One of which nothing was saved under a name, and which
nobody promoted, is found by its id alone, until retention removes it.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists, or_

from store.tables import CheckpointNameRow, ModelRow

LISTED = """
    (
        m.removed_at is null
        and (
            m.session_id is null or m.serves_head or m.served_checkpoint_id is not null
            or exists (select from checkpoint_names n where n.model_id = m.id)
        )
    )
"""
"""SQL: the model `m` is one of them."""


def is_listed() -> ColumnElement[bool]:
    """SQL: the same of ModelRow."""
    was_saved = exists().where(CheckpointNameRow.model_id == ModelRow.id)
    is_served = or_(ModelRow.serves_head, ModelRow.served_checkpoint_id.is_not(None))
    return and_(ModelRow.removed_at.is_(None), or_(ModelRow.session_id.is_(None), is_served, was_saved))
