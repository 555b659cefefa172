"""What the database tells those who watch."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, update

from store.census import take_census
from store.planes.registration import trainer_ready
from store.tables import CheckpointRow, TrainerRow
from tests.unit.store.conftest import Estate


def test_it_counts_what_waits_what_lives_and_what_was_trained_lately(estate: Estate):
    node = estate.step()
    for kind in ("forward_backward", "forward_backward", "optim_step"):
        estate.operation(kind, state="queued", created_at=func.clock_timestamp() - timedelta(seconds=100))
    estate.lease()
    with estate.database.session() as session:
        trainer_ready(session, estate.world.trainer_id, {})
        silent = {"heartbeat_at": func.clock_timestamp() - timedelta(seconds=60)}
        session.execute(update(TrainerRow).where(TrainerRow.id == estate.world.other_trainer_id).values(silent))
        session.execute(update(CheckpointRow).where(CheckpointRow.id == node).values(metrics={"reward_mean": 0.5}))
    with estate.database.session() as session:
        census = take_census(session)
    assert [(o.kind, o.state, o.count) for o in census.operations] == [
        ("forward_backward", "queued", 2),
        ("optim_step", "queued", 1),
    ]
    assert all(100 <= o.oldest_s < 200 for o in census.operations)
    assert [(t.base, t.kind, t.count) for t in census.trainers] == [("base", "ready", 1)]
    assert [(lease.base, lease.count) for lease in census.leases] == [("base", 1)]
    assert (census.num_bases, census.num_forks) == (1, 1)
    assert [name for _, name in census.teams] == ["reds"]
    assert [(h.slug, h.team, h.step, h.metrics) for h in census.heads] == [("fork", "reds", 1, {"reward_mean": 0.5})]


def test_models_that_stepped_long_ago_are_left_out(estate: Estate):
    estate.step()
    with estate.database.session() as session:
        old = {"committed_at": func.clock_timestamp() - timedelta(days=2)}
        session.execute(update(CheckpointRow).values(old))
        assert take_census(session).heads == []
