"""The path to a checkpoint, kept in memory: the check of a step reads the step alone, not the path to it again.

What a step measured does not change once it is committed, so a kept path is never stale. Of earlier steps only what
rules look at is kept. Another branch, another server's steps and a restart cost one reading of the whole path.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from server.guard.history import Step
from server.guard.reading import LONGEST, Path, path_to, read_step
from server.guard.rules import RULES
from store.database import AsyncConnection

_SLACK = 100
"""A kept path is cut back to `LONGEST` when it is so much longer; until then, a score of so old a checkpoint finds its
path here."""
_MOST_STEPS = 32_000
"""Of all kept paths together, 0.6 KiB each."""

_WATCHED = frozenset(name for rule in RULES.values() for name in rule.metrics)


@dataclass(slots=True)
class _Kept:
    """Steps, parents first. `is_whole`: the first one is the root of the tree."""

    steps: list[Step]
    is_whole: bool
    places: dict[UUID, int] = field(default_factory=dict[UUID, int])

    def append(self, step: Step) -> None:
        """On top of the last one, of which less is kept from now on."""
        if self.steps:
            self.steps[-1] = replace(self.steps[-1], metrics=_watched(self.steps[-1].metrics))
        self.places[step.id] = len(self.steps)
        self.steps.append(step)
        if len(self.steps) > LONGEST + _SLACK:
            self._keep(self.steps[-LONGEST:], is_whole=False)

    def cut_after(self, place: int) -> None:
        """Forget what comes after: another branch goes on from here."""
        if place + 1 < len(self.steps):
            self._keep(self.steps[: place + 1], self.is_whole)

    def path_to(self, place: int) -> Path | None:
        """The last `LONGEST` steps up to there; None where some of them are not kept."""
        begin = max(0, place + 1 - LONGEST)
        if not self.is_whole and place + 1 < LONGEST:
            return None
        steps = self.steps[begin : place + 1]
        return Path(steps, begins_at_base=begin == 0 and self.is_whole and steps[0].step > 0)

    def _keep(self, steps: list[Step], is_whole: bool) -> None:
        self.steps, self.is_whole = steps, is_whole
        self.places = {step.id: place for place, step in enumerate(steps)}


class Paths:
    """Of each model the path that was asked for last; those asked for longest ago go first."""

    def __init__(self, most_steps: int = _MOST_STEPS) -> None:
        self._most_steps, self._num_steps = most_steps, 0
        self._kept = OrderedDict[UUID, _Kept]()

    async def to(self, connection: AsyncConnection, model_id: UUID, checkpoint_id: UUID | None) -> Path:
        """As `server.guard.reading.path_to` reads it, of earlier steps only the figures that rules look at."""
        if checkpoint_id is None:
            return Path()
        kept = self._kept.pop(model_id, None)
        self._num_steps -= len(kept.steps) if kept else 0
        path = await self._known(connection, kept, checkpoint_id) if kept else None
        if path is None:
            path, is_whole = await path_to(connection, checkpoint_id)
            kept = _Kept([], is_whole)
            for step in path.steps:
                kept.append(step)
        assert kept is not None
        self._keep(model_id, kept)
        return path

    async def _known(self, connection: AsyncConnection, kept: _Kept, checkpoint_id: UUID) -> Path | None:
        """From what is kept, with one more row at most."""
        place = kept.places.get(checkpoint_id)
        if place is None:
            step, parent_id = await read_step(connection, checkpoint_id)
            parent = kept.places.get(parent_id) if parent_id else None
            if parent is None:
                return None
            kept.cut_after(parent)
            kept.append(step)
            place = len(kept.steps) - 1
        return kept.path_to(place)

    def _keep(self, model_id: UUID, kept: _Kept) -> None:
        self._kept[model_id] = kept
        self._num_steps += len(kept.steps)
        while self._num_steps > self._most_steps and len(self._kept) > 1:
            self._num_steps -= len(self._kept.popitem(last=False)[1].steps)


def _watched(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What rules look at in earlier steps; and whatever is not finite, for a score may make the step the last one."""
    return {
        name: value
        for name, value in metrics.items()
        if name in _WATCHED or (isinstance(value, float) and not math.isfinite(value))
    }
