"""Archives of environments' versions, fetched once for each digest and kept while there is room."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID
from weakref import WeakValueDictionary

from runner.worker.refusals import Away
from wire.placements import EnvironmentSpec

Fetch = Callable[[UUID, Path], Awaitable[str]]
"""Writes the archive of a build to a file, and returns its SHA-256."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TRIES, _PAUSE_S = 30, 2.0


class Archives:
    """A folder of files named by their digests. The least recently used are removed when it grows over `max_bytes`:
    one that is open stays readable."""

    def __init__(self, folder: Path, max_bytes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._max_bytes = folder, max_bytes
        self._fetching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def get(self, spec: EnvironmentSpec, fetch: Fetch) -> Path | None:
        """The file of a version; None where it has none. Waits for a server that is away. Raises Away if that takes a
        minute, OSError if it cannot be kept, ValueError if the server sends other bytes than it names."""
        digest = spec.archive_digest
        if digest is None:
            return None
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no SHA-256")
        async with self._fetching.setdefault(digest, asyncio.Lock()):
            path = self._folder / f"{digest}.tar.gz"
            if not path.exists():
                await self._fetch(spec, path, fetch)
            os.utime(path)
            return path

    async def _fetch(self, spec: EnvironmentSpec, path: Path, fetch: Fetch) -> None:
        descriptor, name = tempfile.mkstemp(prefix="fetching-", dir=self._folder)
        os.close(descriptor)
        draft = Path(name)
        try:
            found = await _patiently(lambda: fetch(spec.build_id, draft))
            if found != spec.archive_digest:
                raise ValueError(f"the archive of {spec.name} {spec.version} has the digest {found}")
            await asyncio.to_thread(self._keep, draft, path)
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)

    def _keep(self, draft: Path, path: Path) -> None:
        self._make_room(draft.stat().st_size)
        draft.rename(path)

    def _make_room(self, num_bytes: int) -> None:
        files = sorted(self._folder.glob("*.tar.gz"), key=lambda file: file.stat().st_mtime, reverse=True)
        kept = num_bytes
        for file in files:
            kept += file.stat().st_size
            if kept > self._max_bytes:
                file.unlink(missing_ok=True)


async def _patiently(fetch: Callable[[], Awaitable[str]]) -> str:
    for _ in range(_TRIES):
        try:
            return await fetch()
        except Away:
            await asyncio.sleep(_PAUSE_S)
    return await fetch()
