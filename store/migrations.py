"""Bring a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

import migrations
from store.database import normalise_url


def upgrade(url: str) -> None:
    """Apply every migration that the database lacks. Safe to run from several processes at once."""
    command.upgrade(alembic_config(url), "head")


def alembic_config(url: str) -> Config:
    """Alembic pointed at our migrations and this database."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["url"] = normalise_url(url)
    return config
