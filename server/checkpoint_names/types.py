"""A checkpoint that a path stands for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from server.checkpoint_names.paths import SEGMENTS, Kind, path_of
from store.tables import CheckpointNameRow, CheckpointRow, ModelRow


@dataclass(frozen=True, slots=True)
class NamedCheckpoint:
    """A checkpoint, its model with its base, and the name under which it was found. `row`: None where the name is that
    of a node of the model's tree."""

    model: ModelRow
    base: ModelRow
    checkpoint: CheckpointRow
    kind: Kind
    name: str
    row: CheckpointNameRow | None

    @property
    def path(self) -> str:
        """Its path, with the run's id."""
        return path_of(self.model, self.kind, self.name)

    @property
    def checkpoint_id(self) -> str:
        """The part of the path that follows the run."""
        return f"{SEGMENTS[self.kind]}/{self.name}"

    @property
    def created_at(self) -> datetime:
        """When it was named or, of a node, made."""
        return (self.row or self.checkpoint).created_at

    @property
    def size_bytes(self) -> int:
        """Of the files that its kind stands for."""
        if self.row is not None:
            return self.row.size_bytes
        return sum(
            file["size"]
            for path, file in self.checkpoint.manifest.get("files", {}).items()
            if self.kind == "training" or not path.startswith("state/")
        )

    @property
    def user_metadata(self) -> dict[str, Any] | None:
        """What its user noted about it."""
        return self.row.user_metadata if self.row else None

    @property
    def expires_at(self) -> datetime | None:
        """When the path stops working."""
        return self.row.expires_at if self.row else None

    @property
    def is_public(self) -> bool:
        """Whether every team may use it."""
        return self.row is not None and self.row.published_at is not None


def named_by_row(model: ModelRow, base: ModelRow, checkpoint: CheckpointRow, row: CheckpointNameRow) -> NamedCheckpoint:
    """A checkpoint by a name that was given to it."""
    return NamedCheckpoint(model, base, checkpoint, cast("Kind", row.kind), row.name, row)
