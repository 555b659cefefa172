"""A server's pictures, with a folder for their blobs."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path

from server.metrics.instruments import ServerMetrics
from server.pictures.collaborators import Pictures
from server.pictures.decoder import PictureDecoder
from server.principals.callers import Caller
from server.process.settings import PictureSettings
from server.sampling.target import Target
from store.blob_stores.file import FileBlobStore
from store.database import AsyncDatabase
from store.pictures import PictureStore


def pictures_of(
    decoder: PictureDecoder, database: AsyncDatabase, folder: Path, settings: PictureSettings | None = None
) -> Pictures:
    settings = settings or PictureSettings()
    return Pictures(settings, decoder, database, PictureStore(database), FileBlobStore(folder), ServerMetrics())


def target_of(team_id: uuid.UUID, *, reads_pictures: bool = True) -> Target:
    """A model of the team's on a base."""
    caller = Caller(team_id, uuid.uuid4(), "team", "member", frozenset({"sample"}), None)
    ids = uuid.uuid4(), None, "m", uuid.uuid4(), "org/Base", None, "a", ()
    return Target(caller, team_id, *ids, reads_pictures=reads_pictures)


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
