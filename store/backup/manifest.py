"""What a backup consists of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from store.tables import Base

MANIFEST = "manifest.json"
TABLES, CHECKPOINTS, BLOBS = "tables", "checkpoints", "blobs"

_VERSION = 1
_OF_PROCESSES = {"model_leases", "samplers", "sampler_adapters", "servers", "adapter_wants", "trainer_starts"}
_OF_PLACE = {"service"}
"""Another service is restored in another place."""
OF_SCHEMA = {"contractions"}
"""Written by migrations, hence there in every service of the same schema."""

Progress = Callable[[int, int], None]
"""Told how many of how many files are done."""


class NotABackup(ValueError):
    """The folder is no complete backup, or was altered since."""


@dataclass(frozen=True, slots=True)
class BackupManifest:
    """`tables`: columns in the order of the dump. `files`: size and SHA-256 of everything but the manifest."""

    revision: str
    created_at: str
    tables: dict[str, list[str]]
    sequences: dict[str, int]
    files: dict[str, tuple[int, str]]

    def to_json(self) -> str:
        """As it stands in the backup."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def read(cls, folder: Path) -> BackupManifest:
        """The manifest of a backup. Raises NotABackup."""
        try:
            data: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
            if data.pop("version") != _VERSION:
                raise NotABackup(f"{folder} was written by another version of Headway")
            files = {path: (int(size), str(digest)) for path, (size, digest) in data.pop("files").items()}
            return cls(files=files, **data)
        except FileNotFoundError:
            raise NotABackup(f"{folder} is no complete backup: it has no {MANIFEST}, which is written last") from None
        except (ValueError, KeyError, TypeError) as error:
            raise NotABackup(f"{folder / MANIFEST} cannot be read: {error}") from None

    def check(self, folder: Path, progress: Progress) -> None:
        """Raises NotABackup naming the first file that is missing or was altered."""
        for done, (path, expected) in enumerate(self.files.items(), start=1):
            if not (folder / path).is_file():
                raise NotABackup(f"{path} is missing from the backup")
            if measure(folder / path) != expected:
                raise NotABackup(f"{path} of the backup was altered")
            progress(done, len(self.files))


def dumped_tables() -> dict[str, list[str]]:
    """The tables that go along, and their columns, without those that PostgreSQL computes."""
    tables = [table for table in Base.metadata.sorted_tables if table.name not in _OF_PROCESSES | _OF_PLACE | OF_SCHEMA]
    return {table.name: [column.name for column in table.columns if column.computed is None] for table in tables}


def measure(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
