"""The bytes of pictures that are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

import structlog

from server.pictures.collaborators import Pictures
from store.blob_stores.threads import in_blob_thread
from wire.errors import CorruptCheckpoint, Gone, NotFound
from wire.pictures import Picture

log = structlog.get_logger(__name__)


async def find(pictures: Pictures, team_id: UUID, names: Collection[str]) -> Mapping[str, Picture]:
    """Those of these names that the team has sent."""
    return await pictures.rows.known(team_id, names)


async def read(pictures: Pictures, team_id: UUID, name: str) -> bytes:
    """The canonical PNG of a picture of the team. Raises NotFound where it has none of this name, and Gone where its
    bytes are not there any more."""
    if name not in await pictures.rows.read(team_id, [name]):
        raise NotFound(f"no picture {name}: it was not sent by this team, or whatever named it was deleted")
    return await read_stored(pictures, name)


async def read_stored(pictures: Pictures, name: str) -> bytes:
    """The same, where it is known that the team has it."""
    try:
        return await in_blob_thread(pictures.blobs, pictures.blobs.get, name)
    except CorruptCheckpoint as error:
        log.warning("picture_lost", picture=name, reason=error.message)
        raise Gone(f"picture {name} is not there any more; send its bytes again") from None
