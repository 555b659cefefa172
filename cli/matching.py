"""Which of several things a reference means, where a server has listed them: no database is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from wire.errors import Conflict, NotFound
from wire.ids import as_uuid

MOST_SHOWN = 8


def only_match(things: Iterable[tuple[str, str | None]], reference: str, *, kind: str, see: str) -> str:
    """The id of the only one of these (id, name), which a server listed, that a reference means. Raises NotFound,
    Conflict."""
    known = list(things)
    dashed = str(as_uuid(reference) or reference).lower()
    for meant in (
        lambda thing: thing[0] == dashed,
        lambda thing: thing[1] == reference,
        lambda thing: thing[0].startswith(dashed),
    ):
        if reference.strip() and (found := [thing for thing in known if meant(thing)]):
            return only_of(found, reference, kind)
    raise NotFound(f"there is no {kind} {reference!r}; see '{see}'")


def only_of(found: Sequence[tuple[Any, str | None]], reference: str, kind: str) -> Any:
    """The one of these (id, name). Raises Conflict where there are several, and names them."""
    if len(found) == 1:
        return found[0][0]
    shown = ", ".join(f"{found_id}{f' ({name})' if name else ''}" for found_id, name in found[:MOST_SHOWN])
    more = ", …" if len(found) > MOST_SHOWN else ""
    raise Conflict(f"{reference!r} can be any of these {kind}s: {shown}{more}; give more of the id")
