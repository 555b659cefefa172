"""Many samplers that compute nothing: the real agent of each, with connections of its own, around a holder that takes
any adapter at once.

    python -m bench.fleet_samplers DATABASE_URL COUNT PORT < …        # prints `ready`; ends when its stdin closes

They name addresses of the loopback network, 127.1.0.1 and following, at which one `bench.stand_in_sampler --any`
listens for all.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import cast
from uuid import UUID

from sqlalchemy import select

from sampler.agent import Agent, AgentSettings
from sampler.settings import LINGER_S
from store.checkpoint_stores import CheckpointFiles, CheckpointStore
from store.database import Database
from store.tables import ModelRow
from wire.loaded import Loaded
from wire.process.lifeline import follow_parent


class Holder:
    """Holds whatever it is given."""

    def __init__(self) -> None:
        self._held = set[str]()

    def load_adapter(self, name: str, path: Path | None) -> None:
        self._held.add(name)

    def unload_adapter(self, name: str) -> None:
        self._held.discard(name)

    def loaded(self) -> set[str]:
        return set(self._held)

    @property
    def details(self) -> Loaded:
        return Loaded(version="stand-in")

    def trouble(self) -> str | None:
        return None

    def final_trouble(self) -> str | None:
        return None


class NoFiles:
    """A checkpoint store whose files nobody reads."""

    def fetch(self, model: UUID, checkpoint: UUID, *, state: bool = True) -> CheckpointFiles:
        return CheckpointFiles(Path(), None)

    def release(self, model: UUID, checkpoint: UUID) -> None:
        pass


def main(database_url: str, count: int, port: int) -> None:
    """Until stdin closes."""
    threading.stack_size(256 * 1024)
    database = Database(database_url)
    with database.session() as session:
        base_id = session.scalars(select(ModelRow.id).where(ModelRow.base_id.is_(None))).one()
    database.close()
    for number in range(1, count + 1):
        url = f"http://127.1.{number // 250}.{number % 250 + 1}:{port}"
        settings = AgentSettings(base_id, url, "stand-in", LINGER_S)
        Agent(
            Database(database_url, pool_size=1, keeps_sessions=False),
            cast(CheckpointStore, NoFiles()),
            Holder(),
            settings,
        ).start()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    follow_parent()
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
