"""Which server process carries a run out. Whoever holds the lease writes under its token; a process that dies loses its
leases with its connection (`store.planes.presence`), and any other takes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from store.database import AsyncConnection, AsyncDatabase
from store.planes.presence import PRESENT
from store.run_states import CARRIED_OUT, IS_CARRIED_OUT
from store.tables import RunRow

_AT_ONCE = 8

_TAKE = f"""
    update runs set lease_owner = %(owner)s, lease_token = lease_token + 1, leased_at = clock_timestamp()
    where id in (
        select r.id from runs r
        where {IS_CARRIED_OUT} and r.id <> all(%(held)s::uuid[])
            and (r.lease_owner is null or r.lease_owner = %(owner)s or not r.lease_owner = any({PRESENT}))
        order by r.leased_at limit {_AT_ONCE} for update skip locked
    )
    returning id, lease_token
"""  # noqa: S608 - put together from constants
_RELEASE = "update runs set lease_owner = null where id = %(id)s and lease_token = %(token)s"


class LeaseLost(Exception):
    """Another process carries the run out, or it was deleted, paused or ended by somebody else."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to carry a run out. The token grows with each lease."""

    database: AsyncDatabase
    run_id: UUID
    token: int

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[tuple[AsyncSession, RunRow]]:
        """A transaction with the run's row locked. Raises LeaseLost before anything is written."""
        async with self.database.session() as session:
            run = await session.scalar(self._row().with_for_update())
            if run is None:
                raise LeaseLost
            yield session, run

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[tuple[AsyncSession, RunRow]]:
        """As `writing`, without the lock."""
        async with self.database.session() as session:
            run = await session.scalar(self._row())
            if run is None:
                raise LeaseLost
            yield session, run

    def _row(self) -> Select[RunRow]:
        is_mine = RunRow.id == self.run_id, RunRow.lease_token == self.token
        return select(RunRow).where(*is_mine, RunRow.state.in_(CARRIED_OUT))


async def take_leases(
    database: AsyncDatabase, connection: AsyncConnection, owner: int, held: Collection[UUID]
) -> list[Lease]:
    """Runs that nobody carries out; `held`: those that this process does."""
    taken = await connection.execute(_TAKE.encode(), {"owner": owner, "held": list(held)})
    return [Lease(database, row.id, row.lease_token) for row in await taken.fetchall()]


async def release(lease: Lease) -> None:
    """Let another process go on at once."""
    async with lease.database.connection() as connection:
        await connection.execute(_RELEASE, {"id": lease.run_id, "token": lease.token})
