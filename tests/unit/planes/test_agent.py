"""The sampler's agent against a real database; what it loads into is a set of names."""

from __future__ import annotations

import os
import signal
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, exists, func, select, text, update

from sampler.agent import Agent, AgentSettings
from store.checkpoint_stores.file import FileCheckpointStore
from store.database import Database, normalise_url
from store.planes.registration import is_live
from store.tables import AdapterWantRow, ModelRow, SamplerAdapterRow, SamplerRow
from tests.unit.conftest import World
from wire.adapter_names import base_adapter_name
from wire.errors import Unavailable
from wire.loaded import Loaded


class Holder:
    def __init__(self) -> None:
        self.names: set[str] = set()
        self.away = False
        self.sick: str | None = None
        self.given_up: str | None = None

    def load_adapter(self, name: str, path: Path | None) -> None:
        if self.away:
            raise Unavailable("what generates is being started again")
        self.names.add(name)

    def unload_adapter(self, name: str) -> None:
        self.names.discard(name)

    def loaded(self) -> set[str]:
        return set(self.names)

    @property
    def details(self) -> Loaded:
        return Loaded(version="0", architecture="Scripted", tokens_per_s=1.0)

    def trouble(self) -> str | None:
        return self.sick

    def final_trouble(self) -> str | None:
        return self.given_up


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
def agent(database: Database, world: World, holder: Holder, tmp_path: Path) -> Agent:
    settings = AgentSettings(world.base_id, "http://127.0.0.1:1", "local", linger_s=0.0)
    return Agent(database, FileCheckpointStore(tmp_path), holder, settings)


def states(database: Database) -> dict[str, str]:
    with database.session() as session:
        return {row.adapter: row.state for row in session.query(SamplerAdapterRow)}


def set_head(database: Database, world: World, checkpoint_id) -> None:
    with database.session() as session:
        session.execute(update(ModelRow).where(ModelRow.id == world.model_id).values(head_checkpoint_id=checkpoint_id))


def test_a_report_that_was_lost_is_made_again(agent: Agent, database: Database, world: World):
    agent.reconcile()
    base = base_adapter_name(world.base_id)
    assert states(database) == {base: "loaded"}
    with database.session() as session:
        session.execute(delete(SamplerAdapterRow))
    agent.reconcile()
    assert states(database) == {base: "loaded"}


def test_a_checkpoint_whose_files_are_missing_is_reported_as_failed(
    agent: Agent, database: Database, world: World, add_checkpoint
):
    checkpoint_id = add_checkpoint()
    set_head(database, world, checkpoint_id)
    agent.reconcile()
    assert states(database)[f"hw-{checkpoint_id.hex}"] == "failed"


def test_what_nobody_wants_is_unloaded_after_it_lingered(
    agent: Agent, database: Database, world: World, holder: Holder, tmp_path: Path, add_checkpoint
):
    checkpoint_id = add_checkpoint()
    store = FileCheckpointStore(tmp_path)
    with store.stage(world.model_id, checkpoint_id) as staged:
        store.publish(world.model_id, checkpoint_id, staged)
    set_head(database, world, checkpoint_id)
    agent.reconcile()
    assert states(database)[f"hw-{checkpoint_id.hex}"] == "loaded"
    set_head(database, world, None)
    for _ in range(2):
        agent.reconcile()
    assert holder.names == {base_adapter_name(world.base_id)} == set(states(database))


def test_reports_are_withdrawn_while_what_generates_is_away_and_made_again_when_it_came_back_empty(
    agent: Agent, database: Database, world: World, holder: Holder
):
    agent.reconcile()
    holder.names.clear()
    holder.away = True
    agent.reconcile()
    assert states(database) == {}, "neither loaded nor failed: it says nothing about the adapter"
    holder.away = False
    agent.reconcile()
    assert states(database) == {base_adapter_name(world.base_id): "loaded"}


def is_in_rotation(database: Database, world: World) -> bool:
    with database.session() as session:
        return bool(session.scalar(select(exists().where(is_live(SamplerRow), SamplerRow.base_id == world.base_id))))


def test_a_sampler_whose_engine_is_dead_leaves_the_rotation_and_comes_back_by_itself(
    agent: Agent, database: Database, world: World, holder: Holder
):
    agent.beat()
    assert is_in_rotation(database, world)
    holder.sick = "the engine has ended"
    for _ in range(2):
        agent.beat()
        assert not is_in_rotation(database, world)
    holder.sick = None
    agent.beat()
    assert is_in_rotation(database, world)


def trouble_of(database: Database, agent: Agent) -> str | None:
    with database.session() as session:
        return session.get_one(SamplerRow, agent._sampler_id).trouble


def test_why_a_sampler_is_out_of_rotation_is_on_record_until_it_is_back(
    agent: Agent, database: Database, world: World, holder: Holder
):
    for trouble in ("vLLM has died", "vLLM is being started again\x00"):
        holder.sick = trouble
        agent.beat()
        assert trouble_of(database, agent) == trouble.replace("\x00", "\ufffd")
        assert not is_in_rotation(database, world)
    holder.sick = None
    agent.beat()
    assert trouble_of(database, agent) is None


@pytest.mark.parametrize("why", ["vLLM died 5 times", None])
def test_one_that_leaves_says_why_only_if_it_gave_up(agent: Agent, database: Database, holder: Holder, why: str | None):
    holder.sick = "vLLM is being started again"
    agent.beat()
    holder.given_up = why
    agent.close()
    assert trouble_of(database, agent) == why


def test_who_has_said_goodbye_stays_away_though_its_engine_runs(agent: Agent, database: Database, world: World):
    agent.start()
    agent.leave()
    assert not is_in_rotation(database, world)
    agent.close()
    assert not is_in_rotation(database, world)


def test_a_sampler_whose_backend_gave_up_ends(agent: Agent, holder: Holder, monkeypatch: pytest.MonkeyPatch):
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *sent: signals.append(sent))
    holder.sick = "it is being started again"
    agent.beat()
    agent.beat()
    assert not signals
    holder.sick = holder.given_up = "it died five times"
    agent.beat()
    assert signals == [(os.getpid(), signal.SIGTERM)]


def test_a_sampler_takes_two_connections_of_the_database(
    postgres_url: str, database: Database, world: World, tmp_path: Path
):
    """Of which a fleet has hundreds, and PostgreSQL a hundred unless somebody says more."""
    name = f"sampler-{uuid.uuid4().hex[:8]}"
    named = normalise_url(postgres_url).update_query_dict({"application_name": name})
    own = Database(named.render_as_string(hide_password=False), pool_size=1, keeps_sessions=False)
    agent = Agent(own, FileCheckpointStore(tmp_path), Holder(), AgentSettings(world.base_id, "http://there", "none"))
    agent.start()
    try:
        for _ in range(20):
            agent.beat()
        with database.session() as session:
            count = text("select count(*) from pg_stat_activity where application_name = :name")
            assert session.scalar(count, {"name": name}) <= 2
    finally:
        agent.close()
        own.close()


def test_a_cold_sampler_loads_first_what_is_waited_for_even_if_it_is_asked_for_meanwhile(
    agent: Agent, database: Database, world: World, holder: Holder, tmp_path: Path, add_checkpoint
):
    head, asked, asked_last, staged, asked_meanwhile = (
        add_checkpoint(status) for status in ("committed", "committed", "committed", "staged", "committed")
    )
    store = FileCheckpointStore(tmp_path)
    for checkpoint_id in (head, asked, asked_last, staged, asked_meanwhile):
        with store.stage(world.model_id, checkpoint_id) as files:
            store.publish(world.model_id, checkpoint_id, files)
    set_head(database, world, head)

    def ask(checkpoint_id: uuid.UUID, for_s: int) -> None:
        until = func.clock_timestamp() + timedelta(seconds=for_s)
        with database.session() as session:
            session.add(AdapterWantRow(checkpoint_id=checkpoint_id, until=until))

    ask(asked, 100)
    ask(asked_last, 200)
    loaded = list[str]()

    def load(name: str, path: Path | None) -> None:
        holder.names.add(name)
        loaded.append(name)
        if name == f"hw-{staged.hex}":
            ask(asked_meanwhile, 300)

    holder.load_adapter = load
    agent.reconcile()
    expected = [f"hw-{one.hex}" for one in (staged, asked_meanwhile, asked_last, asked, head)]
    assert loaded == [base_adapter_name(world.base_id), *expected]


def test_a_sampler_that_leaves_loads_nothing_more(
    agent: Agent, database: Database, world: World, holder: Holder, add_checkpoint
):
    set_head(database, world, add_checkpoint())
    holder.load_adapter = lambda name, path: (holder.names.add(name), agent.leave())
    agent.reconcile()
    assert holder.names == {base_adapter_name(world.base_id)}
