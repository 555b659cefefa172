"""Which base models `headway up` serves: those named on the command line, else those it served before."""

from __future__ import annotations

from pathlib import Path

import typer
from sqlalchemy import select

from store.catalog import ensure_base
from store.database import Database
from store.tables import ModelRow


def choose_bases(database: Database, entries: list[str]) -> list[str]:
    """Register the entries and return their slugs; without any, the slugs that are registered and still loadable.

    Raises ValueError when there is none, for a path without a model, and for a slug that cannot be one.
    """
    if entries:
        return [_register(database, *parse_base(entry)) for entry in entries]
    with database.session() as session:
        query = select(ModelRow.slug, ModelRow.weights).where(ModelRow.base_id.is_(None)).order_by(ModelRow.created_at)
        known = [(slug, weights or "") for slug, weights in session.execute(query)]
    present = [slug for slug, weights in known if not weights.startswith("/") or Path(weights).exists()]
    for slug, weights in known:
        if slug not in present:
            typer.echo(f"headway: leaving out the base {slug!r}, whose weights are no longer at {weights}", err=True)
    if not present:
        raise ValueError("no base model yet: pass --base with a Hugging Face id or the path of a model")
    return present


def parse_base(entry: str) -> tuple[str, str]:
    """Slug and weights of `ID_OR_PATH` or `SLUG=ID_OR_PATH`. Raises ValueError for a path where nothing is."""
    slug, separator, weights = entry.partition("=")
    if not separator:
        slug, weights = "", entry
    path = Path(weights).expanduser()
    if path.exists():
        weights = str(path.resolve())
    elif weights.startswith((".", "/", "~")):
        raise ValueError(f"there is no model at {weights}")
    return slug or Path(weights).name.lower(), weights


def _register(database: Database, slug: str, weights: str) -> str:
    with database.session() as session:
        ensure_base(session, slug, weights)
    return slug
