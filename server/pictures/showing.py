"""Small pictures for pages."""

from __future__ import annotations

from typing import Literal, get_args
from uuid import UUID

from server.pictures.collaborators import Pictures
from server.pictures.reading import read
from wire.errors import InvalidRequest

ShownSide = Literal[160, 320, 640]
SHOWN_SIDES: tuple[int, ...] = get_args(ShownSide)
"""Pixels of the longer side. Few, so that what is made is asked for again."""


async def thumbnail(pictures: Pictures, team_id: UUID, name: str, longest_side: int) -> bytes:
    """A PNG of a picture of the team, scaled down until its longer side has so many pixels at most.

    Raises InvalidRequest for a side that is none of SHOWN_SIDES, and what `reading.read` does.
    """
    if longest_side not in SHOWN_SIDES:
        raise InvalidRequest(f"size must be one of {', '.join(map(str, SHOWN_SIDES))}", param="size")
    if (kept := pictures.shown.get((name, longest_side))) is not None and name in await pictures.rows.read(
        team_id, [name]
    ):
        return kept
    decoded = await pictures.decoder.decode(await read(pictures, team_id, name), longest_side=longest_side)
    pictures.shown.keep((name, longest_side), decoded.png)
    return decoded.png
