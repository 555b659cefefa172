"""How full the disks are that Headway writes to, and what lies on none."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from server.process.settings import ServerSettings
from store.blob_stores import folder_of


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk, and what lies on it."""

    holds: str
    total_bytes: int
    free_bytes: int

    @property
    def used_percent(self) -> int:
        """In whole percents."""
        return round(100 * (1 - self.free_bytes / self.total_bytes)) if self.total_bytes else 0


def in_object_stores(settings: ServerSettings) -> str:
    """What lies in buckets, whose names are not for everybody who sees the page; empty for nothing."""
    return " and ".join(holds for holds, url in _urls(settings).items() if folder_of(url) is None)


async def disks(settings: ServerSettings) -> list[Disk]:
    """Those that this server can see; a bucket is none."""
    folders = {holds: folder for holds, url in _urls(settings).items() if (folder := folder_of(url)) is not None}
    return await asyncio.to_thread(_measure, folders)


def _urls(settings: ServerSettings) -> dict[str, str]:
    collection = settings.garbage_collection
    urls = {"requests and answers": settings.blob_store_url}
    return urls | ({"checkpoints": collection.checkpoint_store_url} if collection else {})


def _measure(folders: dict[str, Path]) -> list[Disk]:
    by_device: dict[int, tuple[list[str], Path]] = {}
    for holds, folder in folders.items():
        existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
        if existing is not None:
            by_device.setdefault(existing.stat().st_dev, ([], existing))[0].append(holds)
    found: list[Disk] = []
    for holds, folder in by_device.values():
        usage = shutil.disk_usage(folder)
        found.append(Disk(" and ".join(holds), usage.total, usage.free))
    return found
