"""Pictures that rollouts' prompts name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import structlog

from store.blob_stores import BlobStore
from store.rollouts import Resolved
from wire.errors import CorruptCheckpoint, Gone
from wire.trajectories import Turn

log = structlog.get_logger(__name__)


def names_of(rollouts: Iterable[Resolved]) -> list[str]:
    """Each once, in the order in which they come."""
    media = (item for one in rollouts for sample in one.samples for item in sample.turn.media)
    return list(dict.fromkeys(item.name for item in media))


def bytes_of(blobs: BlobStore, name: str) -> bytes:
    """The PNG of a picture that rollouts name. Raises Gone where its bytes are not there any more."""
    try:
        return blobs.get(name)
    except CorruptCheckpoint as error:
        log.warning("picture_lost", picture=name, reason=error.message)
        raise Gone(
            f"picture {name}, which one of these rollouts names, is not there any more: send its bytes again, or say "
            "pictures=none"
        ) from None


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
