"""What must hold after each recovery, while the programs go on."""

from __future__ import annotations

import time

from sqlalchemy.exc import OperationalError

from store.invariants import check_all
from tests.chaos.client import PatientClient
from tests.chaos.program import greedy
from tests.supervised.service import Service

_HEAD = """
    select m.head_checkpoint_id as id, c.status
    from models m left join checkpoints c on c.id = m.head_checkpoint_id
    where m.id = %(model_id)s
"""
_PATIENCE_S = 20.0


def violations(box: Service, client: PatientClient, model_id: str, slug: str) -> list[str]:
    """Of the database, and of a head that must be servable."""
    return [*of_database(box), *_of_head(box, client, model_id, slug)]


def of_database(box: Service) -> list[str]:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with box.database.session() as session:
                return [f"{v.name}: {v.rows[:2]}" for v in check_all(session)]
        except OperationalError:  # connections from before PostgreSQL died
            if time.monotonic() > deadline:
                raise


def _of_head(box: Service, client: PatientClient, model_id: str, slug: str) -> list[str]:
    """A greedy chat works, and names a checkpoint that was the head meanwhile."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        (before,) = box.query(_HEAD, model_id=model_id)
        answer = greedy(client, slug)
        (after,) = box.query(_HEAD, model_id=model_id)
        named = answer["checkpoint"]["id"] if answer["checkpoint"] else None
        heads = {str(row.id) if row.id else None for row in (before, after)}
        if named in heads:
            return [] if after.status in (None, "committed") else [f"the head {after.id} is {after.status}"]
        if len(heads) == 1 or time.monotonic() > deadline:
            return [f"the answer names {named}, the head is {heads}"]
