"""Which base models `headway up` serves: those named on the command line, else those it served before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer
from sqlalchemy import select

from store.catalog import ensure_base
from store.database import Database
from store.tables import ModelRow
from wire.process.hub_weights import require_weights


def choose_bases(database: Database, entries: list[str]) -> list[str]:
    """Register the entries and return their slugs; without any, the slugs that are registered and still loadable.

    Raises WeightsOutOfReach for an id that the hub does not have, ValueError when there is none, for a path without a
    model, and for a slug that cannot be one.
    """
    if entries:
        named = [parse_base(entry) for entry in entries]
        _require([weights for _, weights in named])
        return [_register(database, slug, weights) for slug, weights in named]
    with database.session() as session:
        query = (
            select(ModelRow.slug, ModelRow.weights).where(ModelRow.weights.is_not(None)).order_by(ModelRow.created_at)
        )
        known = [(slug, weights or "") for slug, weights in session.execute(query)]
    present = {slug: weights for slug, weights in known if not weights.startswith("/") or Path(weights).exists()}
    for slug, weights in known:
        if slug not in present:
            typer.echo(f"headway: leaving out the base {slug!r}, whose weights are no longer at {weights}", err=True)
    if not present:
        raise ValueError("no base model yet: pass --base with a Hugging Face id or the path of a model")
    _require(present.values())
    return list(present)


def _require(weights: Iterable[str]) -> None:
    """Before anything is registered, or started that would wait for it."""
    for each in weights:
        require_weights(each)


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
