"""Fields of a client's object, by an allow list: served, without effect at the value that they have, or refused by name
(docs/decisions/0037-parameter-allow-list.md)."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Container, Mapping
from typing import Any

from wire.errors import InvalidRequest

_LONGEST_NAME = 64
"""Longer names of fields are cut where they are shown, and resemble no other."""
_ALIKE = 0.7


class _Anything(Container[Any]):
    def __contains__(self, value: object) -> bool:
        return True


ANY = _Anything()
_NOTHING: Mapping[str, Container[Any]] = {}


def check_fields(
    where: str, given: Mapping[str, Any], served: Collection[str], unserved: Mapping[str, Container[Any]] = _NOTHING
) -> None:
    """Raises InvalidRequest for a field of `given` that is none of `served`, and not as `unserved` says (of which
    values it changes nothing). `where`: what comes before the field's name."""
    for name, value in given.items():
        if value is None or name in served:
            continue
        if name not in unserved:
            raise _unknown(where, name, served)
        if value not in unserved[name]:
            full = f"{where}{name}"
            raise InvalidRequest(f"{full} is not supported by this server; leave it out", param=full)


def _unknown(where: str, name: str, served: Collection[str]) -> InvalidRequest:
    alike = difflib.get_close_matches(name, served, 1, _ALIKE) if len(name) <= _LONGEST_NAME else []
    shown = where + (name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…")
    hint = f"; did you mean {where}{alike[0]}?" if alike else "; leave it out"
    return InvalidRequest(f"unknown field {shown}, which this server would ignore{hint}", param=shown)
