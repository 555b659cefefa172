"""Which node a model's name stands for: its head, or the node that was served last where steps do not promote."""

from __future__ import annotations

from sqlalchemy import ColumnElement, case

from store.tables import ModelRow

SERVED = "case when m.serves_head then m.head_checkpoint_id else m.served_checkpoint_id end"
"""SQL: the node that the name of a model `m` stands for; null: the base weights."""


def served_checkpoint_id() -> ColumnElement[object]:
    """The same of `ModelRow`."""
    return case((ModelRow.serves_head, ModelRow.head_checkpoint_id), else_=ModelRow.served_checkpoint_id)
