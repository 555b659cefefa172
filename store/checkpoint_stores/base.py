"""The port of a checkpoint store: put files, then write the manifest, which is the commit."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

ADAPTER = "adapter"
STATE = "state"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint consists of: relative path to size in bytes and SHA-256."""

    files: dict[str, tuple[int, str]]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the store and in the database."""
        return {"version": 1, "files": {path: {"size": s, "sha256": h} for path, (s, h) in self.files.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Manifest:
        """The inverse of `to_json`. Raises KeyError or ValueError on anything else."""
        if data["version"] != 1:
            raise ValueError(f"unknown manifest version {data['version']}")
        return cls({path: (int(row["size"]), str(row["sha256"])) for path, row in data["files"].items()})


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """A verified checkpoint on local disk. `state` is None where the optimizer state was not kept."""

    adapter: Path
    state: Path | None


class CheckpointStore(Protocol):
    """Immutable checkpoints under (model, checkpoint)."""

    def stage(self, model: UUID, checkpoint: UUID) -> AbstractContextManager[Path]:
        """A new empty folder with the subfolders `adapter` and `state` to write into; removed at the end of the
        block unless published."""
        ...

    def publish(self, model: UUID, checkpoint: UUID, staged: Path) -> Manifest:
        """Make the staged files durable and visible. Afterwards they never change."""
        ...

    def fetch(self, model: UUID, checkpoint: UUID, *, state: bool = True) -> CheckpointFiles:
        """The files, verified against their manifest. Raises CorruptCheckpoint naming what is missing or altered."""
        ...

    def describe(self, model: UUID, checkpoint: UUID, part: str) -> str:
        """What clients are told about where a part is; means nothing outside the store."""
        ...
