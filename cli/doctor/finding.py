"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """NOTE: worth knowing, and no fault. UNKNOWN: it could not be checked from here. Only NOT_OK fails the command."""

    OK = "ok"
    NOT_OK = "not ok"
    NOTE = "note"
    UNKNOWN = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """part: PostgreSQL, a store, a plane. what: was checked of it. found: in words, without secrets. remedy: what to do
    next, unless all is well."""

    part: str
    what: str
    state: State
    found: str
    remedy: str = ""


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing is wrong, as far as it could be checked."""
    return all(finding.state is not State.NOT_OK for finding in findings)
