"""What pictures need of a server process."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.metrics.instruments import ServerMetrics
from server.pictures.decoder import PictureDecoder
from server.pictures.recent import Recent
from server.process.settings import PictureSettings
from store.blob_stores import BlobStore
from store.database import AsyncDatabase
from store.pictures import PictureStore
from wire.pictures import Picture

_KNOWN = 65_536
_SHOWN_BYTES = 32 * 1024**2


@dataclass(frozen=True, slots=True)
class Pictures:
    """decoded: by the SHA-256 of bytes as they were sent, and the longest side that was asked for: what they are. Most
    pictures of a conversation were sent with its last turn, so that they are hashed and nothing else.

    shown: thumbnails, by name and longest side.
    """

    settings: PictureSettings
    decoder: PictureDecoder
    database: AsyncDatabase
    rows: PictureStore
    blobs: BlobStore
    metrics: ServerMetrics
    decoded: Recent[tuple[bytes, int | None], Picture] = field(default_factory=lambda: Recent(_KNOWN))
    shown: Recent[tuple[str, int], bytes] = field(default_factory=lambda: Recent(_SHOWN_BYTES, len))
