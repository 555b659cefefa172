"""Pictures for those who look at rollouts: PNGs that a decoder made here, whatever the blob holds that is named."""

from __future__ import annotations

from uuid import UUID

from server.pictures.collaborators import Pictures
from server.pictures.reading import read_stored
from store.database import AsyncDatabase
from store.rollouts.pictured import pictures_of_trace
from wire.errors import InvalidRequest, NotFound

SHOWN_SIDES = (160, 320, 640)
"""Pixels of the longer side. Few, so that what is made is asked for again."""


async def picture_of_trace(
    database: AsyncDatabase, pictures: Pictures, team_id: UUID, trace_id: UUID, name: str, longest_side: int | None
) -> bytes:
    """A PNG of a picture that the rollout names: as it is, or with so many pixels at most on its longer side.

    Raises InvalidRequest for a side that is none of SHOWN_SIDES and for a blob that is no picture, NotFound for a name
    that is not the rollout's, and Gone where its bytes are not there any more.
    """
    if longest_side is not None and longest_side not in SHOWN_SIDES:
        raise InvalidRequest(f"size must be one of {', '.join(map(str, SHOWN_SIDES))}", param="size")
    async with database.connection() as connection:
        if name not in await pictures_of_trace(connection, team_id, trace_id):
            raise NotFound(f"the rollout {trace_id} has no picture {name[:64]}")
    return await _shown(pictures, name, longest_side)


async def _shown(pictures: Pictures, name: str, longest_side: int | None) -> bytes:
    if longest_side is not None and (kept := pictures.shown.get((name, longest_side))) is not None:
        return kept
    decoded = await pictures.decoder.decode(await read_stored(pictures, name), longest_side=longest_side)
    if longest_side is not None:
        pictures.shown.keep((name, longest_side), decoded.png)
    return decoded.png
