"""What is true of the database at every moment, as queries: for `headway doctor`, and for tests that kill things."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.blob_stores import BlobStore
from store.checkpoint_stores import CheckpointStore
from store.database import Database
from store.invariants.base import Invariant, Violation
from store.invariants.log import LOG
from store.invariants.placements import PLACEMENTS
from store.invariants.planes import PLANES
from store.invariants.rollouts import ROLLOUTS
from store.invariants.runs import RUNS
from store.invariants.tree import TREE
from store.verification import Damage, missing_blobs, missing_files

INVARIANTS: tuple[Invariant, ...] = (*TREE, *LOG, *PLANES, *ROLLOUTS, *PLACEMENTS, *RUNS)

_MOST_ROWS = 100


def check_all(session: Session) -> list[Violation]:
    """Every invariant that does not hold, each judged in a snapshot of its own. The service may go on meanwhile."""
    found = [(invariant, _rows(session, invariant)) for invariant in INVARIANTS]
    return [Violation(invariant.name, invariant.sentence, rows) for invariant, rows in found if rows]


def check_files(database: Database, checkpoints: CheckpointStore) -> list[Violation]:
    """Whether committed checkpoints have their files, by names and sizes; `store.verification` reads them as well."""
    sentence = "The files of committed checkpoints are in the store, and nothing else is in their folders."
    return _violated("committed checkpoints have their files", sentence, missing_files(database, checkpoints))


def check_blobs(database: Database, blobs: BlobStore) -> list[Violation]:
    """Whether the blobs that rows name are there, by their names; `store.verification` reads them as well."""
    sentence = "Payloads, results, pictures and uploads that rows name are in the blob store."
    return _violated("rows have their blobs", sentence, missing_blobs(database, blobs))


def _violated(name: str, sentence: str, damages: Sequence[Damage]) -> list[Violation]:
    rows: list[dict[str, object]] = [{"where": d.where, "path": d.path, "what": d.what} for d in damages]
    return [Violation(name, sentence, rows[:_MOST_ROWS])] if rows else []


def _rows(session: Session, invariant: Invariant) -> list[dict[str, object]]:
    return [dict(row) for row in islice(session.execute(text(invariant.violations)).mappings(), _MOST_ROWS)]


__all__ = ["INVARIANTS", "Invariant", "Violation", "check_all", "check_blobs", "check_files"]
