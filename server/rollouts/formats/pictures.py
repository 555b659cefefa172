"""Pictures that rollouts' prompts name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from store.rollouts import Resolved
from wire.trajectories import Turn


def names_of(rollouts: Iterable[Resolved]) -> list[str]:
    """Each once, in the order in which they come."""
    media = (item for one in rollouts for sample in one.samples for item in sample.turn.media)
    return list(dict.fromkeys(item.name for item in media))


def media_of(turn: Turn) -> Sequence[dict[str, Any]]:
    """Where they stand in its prompt."""
    return [
        {
            "start": item.start,
            "num_tokens": item.num_tokens,
            "name": item.name,
            "width": item.width,
            "height": item.height,
        }
        for item in turn.media
    ]
