"""Which pictures a team has sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from wire.pictures import Picture


class PictureRows(Protocol):
    """The rows that a team's pictures have in the store: a pointer is good for teams that have its row, alone."""

    async def add(self, team_id: UUID, pictures: Sequence[tuple[Picture, int]]) -> None:
        """Pictures whose blobs are durable, and their bytes. One that is there is as young as a new one."""
        ...

    async def known(self, team_id: UUID, names: Collection[str]) -> Mapping[str, Picture]:
        """Those that the team has, by name; they are as young as new ones from now on."""
        ...


class RowsInMemory:
    """Of one process, until it ends."""

    def __init__(self) -> None:
        self._rows = dict[tuple[UUID, str], Picture]()

    async def add(self, team_id: UUID, pictures: Sequence[tuple[Picture, int]]) -> None:
        """See PictureRows."""
        self._rows.update({(team_id, picture.name): picture for picture, _ in pictures})

    async def known(self, team_id: UUID, names: Collection[str]) -> Mapping[str, Picture]:
        """See PictureRows."""
        return {name: self._rows[team_id, name] for name in names if (team_id, name) in self._rows}
