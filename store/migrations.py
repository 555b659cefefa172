"""Bring a database to the newest schema."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import OperationalError

import migrations
from store.database import normalise_url
from store.schema import Schema, newest_revision, read_schema

log = structlog.get_logger(__name__)

_ATTEMPTS, _PAUSE_S = 20, 1.0


def upgrade(url: str) -> Schema:
    """Apply every migration that the database lacks; a database of a later release stays as it is. Returns the schema
    that it has then. Safe to run from several processes at once, and while planes of the release before run.

    Raises IncompatibleSchema for a database that this release cannot use any more, or while planes run that could not
    use it afterwards.
    """
    found = read_schema(url)
    found.require_not_contracted(newest_revision())
    if found.revision is None or found.revision < newest_revision():
        _apply(url)
        found = read_schema(url)
    return found


def alembic_config(url: str) -> Config:
    """Alembic pointed at our migrations and this database."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["url"] = normalise_url(url)
    return config


def _apply(url: str) -> None:
    """Each migration waits for its locks for a moment only: everybody else's statements queue behind one that waits.
    What was given up is begun again, at the migration that it was."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            command.upgrade(alembic_config(url), "head")
        except OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable) or attempt == _ATTEMPTS:
                raise
            log.info("migration_waits", reason="a table is in use by a long transaction", attempt=attempt)
            time.sleep(_PAUSE_S)
        else:
            return
