"""The port of a checkpoint store: put files, then write the manifest, which is the commit; then make it last."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

ADAPTER = "adapter"
STATE = "state"


def part_path(model: UUID, checkpoint: UUID, part: str) -> str:
    """The path of a part, as every store returns it to clients; means nothing outside of Headway."""
    return f"checkpoints/{model.hex}/{checkpoint.hex}/{part}"


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
        if strays := [path for path in data["files"] if ".." in path.split("/") or path.startswith("/")]:
            raise ValueError(f"{strays[0]} lies outside of the checkpoint")
        return cls({path: (int(row["size"]), str(row["sha256"])) for path, row in data["files"].items()})


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """A verified checkpoint on local disk. `state` is None where the optimizer state was not kept."""

    adapter: Path
    state: Path | None


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A published folder of the store, whether or not a row names it."""

    model: UUID
    checkpoint: UUID
    has_state: bool
    age_s: float


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A file that is not as the manifest says: `missing`, `changed`, or `extra`."""

    path: str
    what: str


class CheckpointStore(Protocol):
    """Immutable checkpoints under (model, checkpoint)."""

    def stage(self, model: UUID, checkpoint: UUID) -> AbstractContextManager[Path]:
        """A new empty folder with the subfolders `adapter` and `state` to write into; removed at the end of the
        block unless published."""
        ...

    def publish(self, model: UUID, checkpoint: UUID, staged: Path) -> Manifest:
        """Make the staged files visible, all at once. Afterwards they never change. A power cut may still take them:
        samplers can load them meanwhile, but nothing that lasts may point at them before `settle`. Raises OSError or
        Unavailable; nothing was published then."""
        ...

    def settle(self, model: UUID, checkpoint: UUID) -> None:
        """Make what was published durable. Blocks on the disk."""
        ...

    def fetch(self, model: UUID, checkpoint: UUID, *, state: bool = True) -> CheckpointFiles:
        """The files, verified against their manifest, which stay there until `release`. Raises CorruptCheckpoint naming
        what is missing or altered, Unavailable when the store cannot be reached."""
        ...

    def release(self, model: UUID, checkpoint: UUID) -> None:
        """This process reads the files no more, however often it fetched them: a store that handed out a local copy may
        give its room to another. The end of the process does the same."""
        ...

    def describe(self, model: UUID, checkpoint: UUID, part: str) -> str:
        """The path of a part that clients get; means nothing outside the store."""
        ...

    def stored(self) -> Iterator[StoredCheckpoint]:
        """Everything that was published and not removed."""
        ...

    def check(
        self, model: UUID, checkpoint: UUID, manifest: Manifest, parts: Collection[str], *, read: bool = True
    ) -> list[FileProblem]:
        """How the parts differ from this manifest; without `read`, by names and sizes alone."""
        ...

    def remove(self, model: UUID, checkpoint: UUID, part: str | None = None) -> int:
        """Remove a part, or all of it, and return the bytes that were freed. Out of sight at once; what a crash leaves
        behind counts as left over. Nothing there: 0."""
        ...

    def left_over(self) -> Iterator[tuple[str, float]]:
        """Staging folders that are still there, and for how many seconds nothing in them has changed."""
        ...

    def remove_left_over(self, name: str) -> int:
        """Remove one of those, and return the bytes that were freed."""
        ...
