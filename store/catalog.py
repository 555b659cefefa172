"""Base models in the catalog: registered by operators, described by the workers that load them."""

from __future__ import annotations

import dataclasses
import re
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.tables import ModelRow
from wire.engine import BaseModelInfo
from wire.errors import NotFound

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def ensure_base(session: Session, slug: str, weights: str) -> UUID:
    """Register a base model under a slug, or point the slug at other weights if nothing was trained on it yet.

    Raises ValueError for a slug that cannot be one, and when it names another vendor's model, or other weights that
    models were forked from.
    """
    if not _SLUG.fullmatch(slug):
        raise ValueError(f"{slug!r} cannot be the name of a base model: letters, digits, dots, dashes, underscores")
    row = insert(ModelRow).values(slug=slug, name=slug, weights=weights)
    session.execute(row.on_conflict_do_nothing())
    base = session.scalars(_base_by_slug(slug)).one_or_none()
    if base is None:
        raise ValueError(f"{slug!r} is another vendor's model here ('headway upstreams list')")
    if base.weights != weights:
        if forks := _num_forks(session, base.id):
            raise ValueError(f"the base {slug!r} is {base.weights}, and {forks} models were forked from it")
        base.weights, base.info = weights, None
    session.flush()
    return base.id


def base_by_slug(session: Session, slug: str) -> ModelRow:
    """The base model of that slug. Raises NotFound with the slugs that there are."""
    base = session.scalars(_base_by_slug(slug)).one_or_none()
    if base is None:
        known = session.scalars(select(ModelRow.slug).where(ModelRow.weights.is_not(None))).all()
        raise NotFound(f"there is no base model {slug!r}; registered: {', '.join(sorted(known)) or 'none'}")
    return base


def describe_base(session: Session, base_id: UUID, info: BaseModelInfo) -> None:
    """Write down what a worker read off the weights.

    Raises ValueError when they are not the weights that this base's models were forked from.
    """
    base = session.get_one(ModelRow, base_id, with_for_update=True)
    known = (base.info or {}).get("fingerprint")
    if known and known != info.fingerprint and _num_forks(session, base_id):
        raise ValueError(
            f"the weights at {base.weights} are not those that the models of base {base.slug!r} were forked from; "
            "put the old ones back, or register these under another slug (--base NEWSLUG=PATH)"
        )
    base.info = dataclasses.asdict(info)


def _num_forks(session: Session, base_id: UUID) -> int:
    return session.scalar(select(func.count()).select_from(ModelRow).where(ModelRow.base_id == base_id)) or 0


def _base_by_slug(slug: str):
    return select(ModelRow).where(ModelRow.weights.is_not(None), func.lower(ModelRow.slug) == slug.lower())
