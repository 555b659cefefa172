"""What an invariant is: a name, a sentence that holds at every moment, and a query for what breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Invariant:
    """Holds between any two transactions, whatever was killed. `violations` selects what contradicts the sentence."""

    name: str
    sentence: str
    violations: str


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and the rows (at most a hundred) that say so."""

    name: str
    sentence: str
    rows: list[dict[str, Any]]
