"""Pictures of a prompt as sequences have them, and as the border between server and sampler has them.

Apart from that border's types, since commands that only show their options import those, and no numpy.
"""

from __future__ import annotations

from collections.abc import Iterable

from wire.extension import Media
from wire.sampling import MediaItem


def media_items(media: Iterable[Media]) -> list[MediaItem]:
    """Media as this border has them."""
    return [
        MediaItem(start=each.start, num_tokens=each.num_tokens, name=each.name, width=each.width, height=each.height)
        for each in media
    ]


def media_of(items: Iterable[MediaItem]) -> tuple[Media, ...]:
    """Media as sequences have them. Nothing is checked here: `sequence_of` does."""
    return tuple(
        Media(each.start, each.num_tokens, bytes.fromhex(each.name), each.width, each.height) for each in items
    )
