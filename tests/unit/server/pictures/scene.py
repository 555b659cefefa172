"""A server's pictures, with a folder for their blobs."""

from __future__ import annotations

import base64
from pathlib import Path

from server.metrics.instruments import ServerMetrics
from server.pictures.collaborators import Pictures
from server.pictures.decoder import PictureDecoder
from server.process.settings import PictureSettings
from store.blobs import BlobStore
from store.database import AsyncDatabase
from store.pictures import PictureStore


def pictures_of(
    decoder: PictureDecoder, database: AsyncDatabase, folder: Path, settings: PictureSettings | None = None
) -> Pictures:
    settings = settings or PictureSettings()
    return Pictures(settings, decoder, PictureStore(database), BlobStore(folder), ServerMetrics())


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
