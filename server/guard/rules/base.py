"""What a rule is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from server.guard.history import History

Parameters = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: a sentence that names its evidence, and the same as JSON."""

    message: str
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])


class GuardRule(Protocol):
    """Looks at a history, of which the last step or score is new.

    `parameters`: name to default. `metrics`: what of earlier steps it looks at, which is kept in memory. `actions`:
    what it does by default.
    """

    description: ClassVar[str]
    parameters: ClassVar[Parameters]
    metrics: ClassVar[tuple[str, ...]]
    actions: ClassVar[tuple[str, ...]]

    def find(self, history: History, parameters: Parameters) -> Finding | None:
        """What is wrong at the end of this history; None: nothing, or too little is known."""
        ...
