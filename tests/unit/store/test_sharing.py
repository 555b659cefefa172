"""How trainers share the models of a base, on a real database."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, update

from store.database import AsyncDatabase, Database
from store.oplog import leases, leaving, work
from store.oplog.append import append_operation
from store.oplog.scheduling import PATIENCE_S, TENURE_S, NextModel, next_model
from store.oplog.turns import CALL_TOKENS
from store.oplog.work import Lease
from store.tables import CheckpointRow, ModelLeaseRow, ModelRow, OperationRow, TeamRow, TrainerRow
from tests.unit.conftest import World


async def ask(async_database: AsyncDatabase, model_id: UUID) -> UUID:
    async with async_database.connection() as connection:
        return (await append_operation(connection, model_id=model_id, kind="forward", payload=b"")).id


def take(database: Database, world: World, trainer_id: UUID | None = None) -> int | None:
    with database.session() as session:
        return leases.acquire(session, trainer_id or world.trainer_id, world.model_id)


def upcoming(database: Database, world: World, trainer_id: UUID) -> NextModel | None:
    with database.connection() as connection:
        return next_model(connection, world.base_id, trainer_id)


def pass_time(database: Database, seconds: float) -> None:
    """As if everything so far had happened earlier; leases that are renewed do not run out."""
    ago = timedelta(seconds=seconds)
    with database.session() as session:
        session.execute(
            update(OperationRow).values(
                created_at=OperationRow.created_at - ago, finished_at=OperationRow.finished_at - ago
            )
        )
        session.execute(update(ModelLeaseRow).values(taken_at=ModelLeaseRow.taken_at - ago))


async def test_a_model_that_nobody_holds_is_offered_to_each(
    database: Database, async_database: AsyncDatabase, world: World
):
    assert upcoming(database, world, world.trainer_id) is None
    await ask(async_database, world.model_id)
    for trainer_id in (world.trainer_id, world.other_trainer_id):
        assert upcoming(database, world, trainer_id) == NextModel(world.model_id, 0.0)


async def test_work_that_its_holder_leaves_lying_goes_to_a_free_trainer(
    database: Database, async_database: AsyncDatabase, world: World
):
    stale = take(database, world)
    pass_time(database, TENURE_S + 1)
    await ask(async_database, world.model_id)
    waiting = upcoming(database, world, world.other_trainer_id)
    assert waiting is not None
    assert 0 < waiting.free_in_s <= PATIENCE_S
    assert take(database, world, world.other_trainer_id) is None, "its holder has a moment to get round to it"
    pass_time(database, PATIENCE_S)
    assert upcoming(database, world, world.other_trainer_id) == NextModel(world.model_id, 0.0)
    fresh = take(database, world, world.other_trainer_id)
    assert fresh is not None
    assert stale is not None
    assert fresh > stale


async def test_a_model_that_has_just_moved_stays(database: Database, async_database: AsyncDatabase, world: World):
    take(database, world)
    await ask(async_database, world.model_id)
    pass_time(database, PATIENCE_S + 0.5)
    assert take(database, world, world.other_trainer_id) is None


async def test_a_model_that_is_being_worked_on_stays(database: Database, async_database: AsyncDatabase, world: World):
    token = take(database, world)
    assert token is not None
    await ask(async_database, world.model_id)
    await ask(async_database, world.model_id)
    with database.connection() as connection:
        work.start_next(connection, Lease(world.model_id, token))
    pass_time(database, TENURE_S + PATIENCE_S)
    assert take(database, world, world.other_trainer_id) is None
    with database.session() as session:
        done = {"state": "done", "finished_at": func.clock_timestamp()}
        session.execute(update(OperationRow).where(OperationRow.state == "running").values(**done))
    assert take(database, world, world.other_trainer_id) is None, "it has only just finished the one before"


async def test_a_stopping_trainer_hands_back_what_runs_without_counting_the_attempt(
    database: Database, async_database: AsyncDatabase, world: World, add_checkpoint
):
    token = take(database, world)
    assert token is not None
    operation_id, staged = await ask(async_database, world.model_id), add_checkpoint("staged")
    with database.connection() as connection:
        work.start_next(connection, Lease(world.model_id, token))
        leaving.hand_back(connection, world.trainer_id)
    with database.session() as session:
        operation = session.get_one(OperationRow, operation_id)
        assert (operation.state, operation.attempts, operation.started_at) == ("queued", 0, None)
        assert session.get_one(CheckpointRow, staged).status == "rejected"
        assert session.get_one(TrainerRow, world.trainer_id).stopped_at is not None
        assert session.get(ModelLeaseRow, world.model_id) is None
    assert upcoming(database, world, world.other_trainer_id) == NextModel(world.model_id, 0.0)


async def test_a_trainer_whose_parent_saw_it_die_leaves_its_models_at_once_and_its_attempt_counts(
    database: Database, async_database: AsyncDatabase, world: World
):
    with database.session() as session:
        session.execute(update(TrainerRow).where(TrainerRow.id == world.trainer_id).values(pid=-7))
        host = session.get_one(TrainerRow, world.trainer_id).host
    token = take(database, world)
    assert token is not None
    operation_id = await ask(async_database, world.model_id)
    with database.connection() as connection:
        work.start_next(connection, Lease(world.model_id, token))
        leaving.release_dead(connection, host, -7)
    with database.session() as session:
        operation = session.get_one(OperationRow, operation_id)
        assert (operation.state, operation.attempts) == ("queued", 1)
        assert session.get_one(TrainerRow, world.other_trainer_id).stopped_at is None
    assert upcoming(database, world, world.other_trainer_id) == NextModel(world.model_id, 0.0)


async def test_an_idle_trainer_leaves_only_if_nothing_waits_for_it(
    database: Database, async_database: AsyncDatabase, world: World
):
    take(database, world)
    await ask(async_database, world.model_id)
    with database.connection() as connection:
        assert not leaving.leave_if_idle(connection, world.trainer_id)
        assert leaving.leave_if_idle(connection, world.other_trainer_id), "what waits is the holder's"
    with database.session() as session:
        session.execute(update(OperationRow).values(state="done"))
    with database.connection() as connection:
        assert leaving.leave_if_idle(connection, world.trainer_id)
    with database.session() as session:
        assert session.get(ModelLeaseRow, world.model_id) is None


async def test_a_lease_is_not_given_up_while_work_waits(
    database: Database, async_database: AsyncDatabase, world: World
):
    token = take(database, world)
    assert token is not None
    await ask(async_database, world.model_id)
    with database.session() as session:
        assert not leases.release(session, world.model_id, token)
        session.execute(update(OperationRow).values(state="done"))
        assert leases.release(session, world.model_id, token)
        assert session.get(ModelRow, world.model_id) is not None


class Teams:
    """Teams with models of one base, and trainers that carry out what they ask for, one operation after the other."""

    def __init__(self, database: Database, async_database: AsyncDatabase, world: World) -> None:
        self._database, self._async_database, self._world = database, async_database, world
        self._teams: dict[UUID, str] = {}
        self.models: dict[str, list[UUID]] = {}

    def add(self, name: str, num_models: int = 1) -> None:
        with self._database.session() as session:
            team = TeamRow(name=name)
            session.add(team)
            session.flush()
            shape = {"team_id": team.id, "base_id": self._world.base_id, "lora": {}}
            models = [ModelRow(slug=f"{name}-{i}", name=name, **shape) for i in range(num_models)]
            session.add_all(models)
            session.flush()
            self.models[name] = [model.id for model in models]
        self._teams |= dict.fromkeys(self.models[name], name)

    async def ask(self, name: str, num_tokens: int, times: int = 1, *, key: bool = True, model: int = 0) -> None:
        for _ in range(times):
            values = {"kind": "forward_backward", "payload": b"", "num_tokens": num_tokens}
            values["idempotency_key"] = uuid.uuid4().hex if key else None
            async with self._async_database.connection() as connection:
                await append_operation(connection, model_id=self.models[name][model], **values)

    def start(self, trainer_id: UUID | None = None) -> tuple[str, Callable[[], None]] | None:
        """Whose operation is started, and how it is completed."""
        trainer_id = trainer_id or self._world.trainer_id
        following = upcoming(self._database, self._world, trainer_id)
        if following is None or following.free_in_s:
            return None
        with self._database.session() as session:
            token = leases.acquire(session, trainer_id, following.model_id)
        assert token is not None
        lease = Lease(following.model_id, token)
        with self._database.connection() as connection:
            started = work.start_next(connection, lease)
        assert started is not None

        def complete() -> None:
            with self._database.connection() as connection:
                work.complete(connection, lease, started[0], {"result": b""})

        return self._teams[following.model_id], complete

    def served(self, times: int) -> str:
        """The first letters of those whose operations come next."""
        letters = ""
        for _ in range(times):
            started = self.start()
            if started is None:
                break
            started[1]()
            letters += started[0][0]
        return letters


@pytest.fixture
def teams(database: Database, async_database: AsyncDatabase, world: World) -> Teams:
    return Teams(database, async_database, world)


async def test_teams_that_wait_get_the_same_tokens_and_not_the_same_calls(teams: Teams):
    teams.add("large")
    teams.add("small")
    await teams.ask("large", 10 * CALL_TOKENS, 3)
    await teams.ask("small", 0, 33)
    assert teams.served(36) == ("l" + "s" * 11) * 3


async def test_a_team_with_many_models_counts_as_one(teams: Teams):
    teams.add("many", 4)
    teams.add("one")
    for model in range(4):
        await teams.ask("many", 500, 2, model=model)
    await teams.ask("one", 500, 4)
    assert teams.served(12) == "mo" * 4 + "m" * 4


async def test_what_was_used_while_nobody_else_waited_is_forgotten(teams: Teams):
    teams.add("early")
    teams.add("late")
    await teams.ask("early", 100_000, 5)
    assert teams.served(5) == "e" * 5
    await teams.ask("late", 0, 2)
    assert teams.served(1) == "l"
    await teams.ask("early", 0, 3)
    assert teams.served(4) == "elee"


async def test_a_pause_earns_nothing(teams: Teams):
    for name in ("busy", "other", "paused"):
        teams.add(name)
        await teams.ask(name, 0)
    assert teams.served(3) == "bop"
    for name in ("busy", "other"):
        await teams.ask(name, 1000, 20)
    assert teams.served(20) == "bo" * 10
    await teams.ask("paused", 1000, 10)
    assert sorted(teams.served(9)) == sorted("bop" * 3)


async def test_a_team_that_had_much_waits_until_the_others_have_had_as_much_and_no_longer(teams: Teams):
    for name in ("much", "one", "two"):
        teams.add(name)
    await teams.ask("much", 9 * CALL_TOKENS, 2)
    for name in ("one", "two"):
        await teams.ask(name, CALL_TOKENS, 20)
    order = teams.served(16)
    assert order[0] == "m"
    assert 10 <= order.index("m", 1) <= 12


async def test_several_trainers_share_one_account_of_the_teams(teams: Teams, world: World):
    teams.add("many", 3)
    teams.add("one")
    for model in range(3):
        await teams.ask("many", 500, model=model)
    await teams.ask("one", 500)
    first, second = teams.start(world.trainer_id), teams.start(world.other_trainer_id)
    assert first is not None
    assert second is not None
    assert {first[0], second[0]} == {"many", "one"}


async def test_what_nobody_waits_for_comes_last(teams: Teams):
    teams.add("gone")
    teams.add("here")
    await teams.ask("gone", 0, key=False)
    await teams.ask("here", 10_000, 2)
    assert teams.served(3) == "hhg"


async def test_what_somebody_waits_for_brings_along_what_is_before_it_in_its_model(teams: Teams):
    teams.add("back")
    teams.add("here")
    await teams.ask("back", 0, key=False)
    await teams.ask("back", 0)
    await teams.ask("here", 0, 2)
    assert teams.served(4) == "bhbh"


HOUR_S = 3600.0


async def test_a_clock_that_was_set_back_holds_no_operation(
    database: Database, async_database: AsyncDatabase, world: World
):
    """What came before is dated an hour ahead."""
    await ask(async_database, world.model_id)
    pass_time(database, -HOUR_S)
    for trainer_id in (world.trainer_id, world.other_trainer_id):
        assert upcoming(database, world, trainer_id) == NextModel(world.model_id, 0.0)


async def test_a_pause_that_a_clock_set_back_has_prolonged_is_over(
    database: Database, async_database: AsyncDatabase, world: World
):
    await ask(async_database, world.model_id)
    ahead = func.clock_timestamp() + timedelta(seconds=HOUR_S)
    with database.session() as session:
        session.execute(update(OperationRow).values(retry_at=ahead, retry_reason="the disk was full"))
    assert upcoming(database, world, world.trainer_id) == NextModel(world.model_id, 0.0)


async def test_a_model_that_was_taken_before_a_clock_was_set_back_may_be_taken_by_a_free_trainer(
    database: Database, async_database: AsyncDatabase, world: World
):
    token = take(database, world)
    await ask(async_database, world.model_id)
    pass_time(database, -HOUR_S)
    assert upcoming(database, world, world.other_trainer_id) == NextModel(world.model_id, 0.0)
    taken = take(database, world, world.other_trainer_id)
    assert token is not None
    assert taken is not None
    assert taken > token
