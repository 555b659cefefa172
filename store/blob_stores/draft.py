"""A blob that comes in pieces, as a file of the local disk until it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path


class LocalDraft:
    """See BlobDraft. `adopt` makes the file the blob of this name, durably."""

    def __init__(self, path: Path, adopt: Callable[[Path, str], None]) -> None:
        self._path, self._adopt = path, adopt
        self._file, self._digest = path.open("wb"), hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.num_bytes += len(data)

    def keep(self) -> str:
        self._file.close()
        name = self._digest.hexdigest()
        self._adopt(self._path, name)
        return name

    def drop(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
