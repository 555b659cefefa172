"""For how long the requests of a sampling session are kept."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from store.tables import ClientSessionRow, SamplingRequestRow, SamplingSessionRow
from tests.unit.store.conftest import Estate

HOUR = timedelta(hours=1)


@pytest.fixture
def place_kind() -> str:
    return "file"


def session_of(estate: Estate, name: str, *, silent: timedelta, finished: timedelta | None) -> None:
    """A client session with a sampling session and a request that ended when its client was last there."""
    with estate.database.session() as session:
        now = func.clock_timestamp()
        finished_at = None if finished is None else now - finished
        times = {"created_at": now - silent, "heartbeat_at": now - silent, "finished_at": finished_at}
        session.add(ClientSessionRow(id=name, team_id=estate.world.team_id, **times))
        session.flush()
        team = {"team_id": estate.world.team_id}
        sampler = {"id": f"{name}:sample:0", "session_id": name, "session_index": 0, "model_id": estate.world.model_id}
        session.add(SamplingSessionRow(kind="snapshot", **sampler, **team))
        session.flush()
        request = {"sampling_session_id": f"{name}:sample:0", "client_sequence": 0, "request": b"", "state": "done"}
        session.add(SamplingRequestRow(**request, **team, created_at=now - silent, finished_at=now - silent))


def kept(estate: Estate) -> set[str]:
    with estate.database.session() as session:
        return set(session.scalars(select(SamplingRequestRow.sampling_session_id)))


def test_requests_go_after_their_session_has_ended_or_fallen_silent(estate: Estate):
    session_of(estate, "at-work", silent=2 * HOUR, finished=None)
    session_of(estate, "just-ended", silent=2 * HOUR, finished=HOUR / 2)
    session_of(estate, "ended", silent=2 * HOUR, finished=2 * HOUR)
    session_of(estate, "silent", silent=30 * HOUR, finished=None)
    removed = [removal for removal in estate.collect(dry_run=True) if "sampling requests" in removal.what]
    assert {removal.name for removal in removed} == {"ended:sample:0", "silent:sample:0"}
    estate.collect()
    assert kept(estate) == {"at-work:sample:0", "just-ended:sample:0"}
