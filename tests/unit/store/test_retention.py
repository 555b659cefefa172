from __future__ import annotations

import errno
import threading
import time
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from store.database import AsyncDatabase
from store.oplog.results import wait_for_result
from store.oplog.waiting import WaitingCalls
from store.ownership import service_id
from store.planes.adapters import want_checkpoint
from store.planes.registration import known_losses, register_sampler, register_trainer
from store.retention import marking
from store.retention.lock import keeping_files
from store.retention.pins import pin
from store.retention.policy import RetentionPolicy
from store.tables import CheckpointRow, EventRow, OperationRow, SamplerAdapterRow, SamplerRow, TrainerRow
from tests.ports.checkpoint_places import KINDS
from tests.unit.store.conftest import DAY_S, Estate
from wire.errors import Conflict, CorruptCheckpoint, Gone, NotFound


@pytest.fixture(params=KINDS)
def place_kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_newest_optimizer_states_are_kept_and_all_adapters(estate: Estate):
    nodes = estate.steps(5)
    removed = estate.collect(keep_last_states=2)
    assert {r.what for r in removed} == {"optimizer state"}
    assert estate.with_state() == set(nodes[-2:])
    assert estate.with_files() == set(nodes)
    assert estate.marked() == set(nodes[:3])
    assert estate.collect(keep_last_states=2) == []


def test_every_nth_pinned_ones_heads_forked_ones_and_those_about_to_be_heads_are_kept(
    estate: Estate, async_database: AsyncDatabase
):
    nodes = estate.steps(8)
    with estate.database.session() as session:
        pin(session, "fork", estate.row(nodes[0]).name, pinned=True)
    estate.fork(nodes[1])
    estate.set_head(nodes[2])
    estate.collect(keep_last_states=1, keep_every_states=4)
    # steps 1 (pinned), 2 (forked), 3 (head), 4 and 8 (every fourth; 8 also the newest)
    assert estate.with_state() == {nodes[i] for i in (0, 1, 2, 3, 7)}


async def test_a_checkpoint_that_samplers_are_told_to_load_keeps_its_state(
    estate: Estate, async_database: AsyncDatabase
):
    nodes = estate.steps(3)
    async with async_database.session() as session:
        await want_checkpoint(session, nodes[0], for_s=60)
    estate.collect(keep_last_states=1)
    assert estate.with_state() == {nodes[0], nodes[2]}


def test_a_dry_run_lists_the_same_and_changes_nothing(estate: Estate):
    nodes = estate.steps(4)
    estate.blobs.put(b"orphan")
    estate.age_files()
    listed = estate.collect(dry_run=True)
    assert estate.with_state() == set(nodes)
    assert not estate.marked()
    removed = estate.collect()
    assert [(r.what, r.name) for r in listed] == [(r.what, r.name) for r in removed]
    assert {r.what for r in removed} == {"optimizer state", "blob"}


def test_what_was_marked_and_not_removed_is_removed_by_the_next_collection(estate: Estate):
    nodes = estate.steps(3)
    marking.thin_states(estate.database, RetentionPolicy(keep_last_states=1, keep_every_states=0), dry_run=False)
    assert estate.with_state() == set(nodes)
    estate.collect()
    assert estate.with_state() == {nodes[-1]}


def test_adapters_go_only_when_told_so_and_never_those_that_somebody_needs(estate: Estate):
    nodes = estate.steps(5)
    estate.fork(nodes[0])
    estate.set_head(nodes[1])
    estate.collect(keep_last_adapters=1)
    assert estate.with_files() == {nodes[0], nodes[1], nodes[4]}
    assert estate.row(nodes[2]).files_removed_at is not None


def test_a_fork_that_comes_first_keeps_the_state(estate: Estate):
    """The collector waits for the fork's lock, and then looks again."""
    old, *_ = estate.steps(3)
    with estate.database.session() as session:
        node = session.get_one(CheckpointRow, old, with_for_update={"read": True})
        collecting = threading.Thread(target=estate.collect, kwargs={"keep_last_states": 1})
        collecting.start()
        time.sleep(0.3)
        assert collecting.is_alive(), "it waits for whoever forks"
        root = CheckpointRow(
            model_id=estate.world.model_id,
            files_id=node.id,
            files_model_id=node.model_id,
            step=0,
            name="root",
            status="committed",
            manifest=node.manifest,
            metrics={},
        )
        session.add(root)
    collecting.join(10)
    assert old in estate.with_state()
    assert estate.row(old).state_removed_at is None


def test_a_head_that_moves_first_keeps_the_state(estate: Estate):
    old, *_ = estate.steps(3)
    with estate.database.session() as session:
        session.execute(update_head(estate, old))
        collecting = threading.Thread(target=estate.collect, kwargs={"keep_last_states": 1})
        collecting.start()
        time.sleep(0.3)
        assert collecting.is_alive()
    collecting.join(10)
    assert estate.row(old).state_removed_at is None


def update_head(estate: Estate, checkpoint_id: uuid.UUID):
    from store.tables import ModelRow

    return update(ModelRow).where(ModelRow.id == estate.world.model_id).values(head_checkpoint_id=checkpoint_id)


def test_what_dead_trainers_left_half_written_go_after_the_grace_period(estate: Estate):
    estate.step()
    before = estate.place.names()
    estate.place.leave_behind(b"half")
    assert estate.collect() == []
    estate.age_files()
    assert [(r.what, r.num_bytes) for r in estate.collect()] == [("staging folder", 4)]
    assert estate.place.names() == before


def test_files_of_rejected_checkpoints_go(estate: Estate, add_checkpoint):
    estate.step()
    rejected, staged = add_checkpoint("rejected"), add_checkpoint("staged")
    for checkpoint_id in (rejected, staged):
        estate.publish(checkpoint_id)
    assert [r.what for r in estate.collect()] == ["files of a rejected checkpoint"]
    assert staged in estate.with_files()
    assert rejected not in estate.with_files()


def test_blobs_of_a_store_that_another_service_claimed_are_left_alone(estate: Estate):
    estate.step()
    name = estate.blobs.put(b"of another service")
    estate.blobs.claim("another")
    estate.age_files()
    for dry_run in (True, False):
        with pytest.raises(Conflict, match="belongs to another service"):
            estate.collect(dry_run=dry_run)
    assert estate.blobs.has(name)
    assert estate.blobs.owner() == "another"


def test_a_store_is_claimed_by_the_first_collection_and_an_empty_one_is_free(estate: Estate):
    estate.step()
    estate.blobs.claim("one that was taken down, with all its blobs")
    estate.collect(dry_run=True)
    assert estate.blobs.owner() == "one that was taken down, with all its blobs"
    estate.collect()
    with estate.database.connection() as connection:
        assert estate.blobs.owner() == service_id(connection)
    estate.blobs.put(b"ours")
    estate.collect()


def test_a_full_disk_that_takes_no_claim_is_collected(estate: Estate, monkeypatch: pytest.MonkeyPatch):
    estate.step()
    name = estate.blobs.put(b"orphan")
    estate.age_files()

    def full(service: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(estate.blobs, "claim", full)
    assert [removal.name for removal in estate.collect()] == [name]


def test_files_without_a_row_go_after_the_grace_period_and_nobody_can_name_them_any_more(estate: Estate):
    estate.step()
    orphan = uuid.uuid4()
    estate.publish(orphan)
    assert estate.collect() == []
    estate.age_files()
    assert [r.what for r in estate.collect()] == ["files without a row"]
    assert orphan not in estate.with_files()
    assert estate.row(orphan).status == "rejected", "a trainer that slept meanwhile cannot insert this row"


def test_folders_of_unknown_models_are_left_alone_unless_told_otherwise(estate: Estate):
    estate.step()
    with estate.checkpoints.stage(uuid.uuid4(), uuid.uuid4()) as staged:
        estate.checkpoints.publish(uuid.uuid4(), uuid.uuid4(), staged)
    estate.age_files()
    assert estate.collect() == []
    assert [r.what for r in estate.collect(strangers=True)] == ["files without a row"]


def test_a_database_that_knows_nothing_of_the_stores_collects_nothing(estate: Estate):
    estate.blobs.put(b"somebody else's")
    estate.age_files()
    with pytest.raises(Conflict, match="are these its data folders"):
        estate.collect()


def put(estate: Estate, content: bytes) -> str:
    return estate.blobs.put(content)


def test_blobs_are_kept_while_a_replay_or_a_backward_may_need_them(estate: Estate):
    estate.step()
    kept = {
        estate.operation("forward_backward", payload_blob=put(estate, b"queued")): b"queued",
        estate.operation("forward_backward", state="running", payload_blob=put(estate, b"runs")): b"runs",
        estate.operation("forward_backward", state="done", result=b"", payload_blob=put(estate, b"pends")): b"pends",
        estate.operation("forward", state="done", result=b"", payload_blob=put(estate, b"handle")): b"handle",
    }
    used = estate.operation("forward", state="done", head_version=0, result=b"", payload_blob=put(estate, b"used"))
    backward = estate.operation("backward", state="done", result=b"", forward_id=used)
    with estate.database.session() as session:
        session.get_one(OperationRow, used).consumed_by_id = backward
    estate.operation("forward", state="done", head_version=0, result=b"", payload_blob=put(estate, b"stale"))
    estate.operation("forward_backward", state="superseded", payload_blob=put(estate, b"superseded"))
    estate.age_operations()
    estate.age_files()
    removed = {r.name for r in estate.collect() if r.what == "blob"}
    names = {content: estate.blobs.put(content) for content in (b"stale", b"superseded")}
    assert removed == set(names.values())
    for content in (*kept.values(), b"used"):
        assert estate.blobs.get(estate.blobs.put(content)) == content


def test_spent_payloads_go_when_their_time_is_over(estate: Estate):
    estate.step()
    consumer = estate.operation("optim_step", state="done", result=b"x")
    name = put(estate, b"batch")
    gradient = estate.operation("forward_backward", state="done", result=b"", payload_blob=name)
    with estate.database.session() as session:
        session.get_one(OperationRow, gradient).consumed_by_id = consumer
    estate.age_files()
    assert estate.collect() == []
    estate.age_operations()
    assert [r.name for r in estate.collect()] == [name]
    with estate.database.session() as session:
        assert session.get_one(OperationRow, gradient).blobs_dropped_at is not None


def test_a_blob_that_is_put_again_is_young_again(estate: Estate):
    estate.step()
    name = put(estate, b"twice")
    estate.age_files()
    (old,) = estate.blobs.stored()
    put(estate, b"twice")
    assert not estate.blobs.remove_older([old], 3600.0), "somebody is about to commit a row that names it"
    assert estate.collect() == []
    assert estate.blobs.get(name) == b"twice"


def test_uploads_under_way_are_left_alone(estate: Estate):
    estate.step()
    put(estate, b"no row yet")
    assert estate.collect() == []


async def test_an_answer_that_was_not_kept_is_gone_and_says_so(
    estate: Estate, async_database: AsyncDatabase, waiting_calls: WaitingCalls
):
    answered = estate.operation(
        "forward", state="done", head_version=-1, answered_at=func.clock_timestamp(), result_blob=put(estate, b"answer")
    )
    estate.age_operations()
    estate.age_files()
    assert [r.what for r in estate.collect()] == ["blob"]
    with pytest.raises(Gone, match="not kept any longer"):
        await wait_for_result(async_database, waiting_calls, estate.blobs, answered, 5.0)


async def test_rows_of_long_dead_processes_go_but_not_what_is_known_of_the_losses(
    estate: Estate, async_database: AsyncDatabase
):
    world = estate.world
    with estate.database.session() as session:
        dead = register_sampler(session, world.base_id, "http://127.0.0.1:1", "local")
        live = register_sampler(session, world.base_id, "http://127.0.0.1:2", "local")
        session.add_all(SamplerAdapterRow(sampler_id=s, adapter="hw-x", state="loaded") for s in (dead, live))
        newest = register_trainer(session, world.base_id, {"ppo": {}})
    estate.lease()
    with estate.database.session() as session:
        past = func.clock_timestamp() - timedelta(seconds=30 * DAY_S)
        session.execute(update(TrainerRow).values(heartbeat_at=past))
        session.execute(update(SamplerRow).where(SamplerRow.id == dead).values(heartbeat_at=past))
    removed = {(r.what, r.name) for r in estate.collect()}
    assert removed == {("row of samplers", str(dead)), ("row of trainers", str(world.other_trainer_id))}
    with estate.database.session() as session:
        assert set(session.scalars(select(TrainerRow.id))) == {world.trainer_id, newest}, "one is named by a lease"
        assert list(session.scalars(select(SamplerAdapterRow.sampler_id))) == [live]
    async with async_database.session() as session:
        assert await known_losses(session, world.base_id) == {"ppo": {}}


def test_nobody_collects_while_a_backup_reads(estate: Estate):
    estate.steps(3)
    with keeping_files(estate.database), pytest.raises(Conflict, match="under way"):
        estate.collect()
    assert estate.collect(keep_last_states=1) != []


def test_a_collection_that_is_told_to_stop_leaves_the_rest_for_the_next(estate: Estate):
    from store.retention.collecting import Collector

    nodes = estate.steps(3)
    policy = RetentionPolicy(keep_last_states=1, keep_every_states=0)
    collector = Collector(estate.database, estate.blobs, estate.checkpoints, policy)
    collector.stop()
    assert collector.collect() == []
    assert estate.with_state() == set(nodes)
    estate.collect()
    assert estate.with_state() == {nodes[-1]}


def test_pins_are_found_by_name_id_or_head_and_come_too_late_for_what_is_gone(estate: Estate):
    nodes = estate.steps(3)
    with estate.database.session() as session:
        assert pin(session, "FORK", "head", pinned=True).id == nodes[2]
        assert pin(session, "reds/fork", nodes[1].hex, pinned=True).id == nodes[1]
        assert pin(session, str(estate.world.model_id), nodes[1].hex, pinned=False).pinned_at is None
        assert set(session.scalars(select(EventRow.action))) == {"pin", "unpin"}
    estate.collect(keep_last_states=1)
    assert estate.with_state() == {nodes[2]}
    with estate.database.session() as session, pytest.raises(Conflict, match="optimizer state was removed"):
        pin(session, "fork", nodes[0].hex, pinned=True)
    for model, checkpoint in [("nothing", "head"), ("fork", "nothing")]:
        with estate.database.session() as session, pytest.raises(NotFound):
            pin(session, model, checkpoint, pinned=True)


@pytest.mark.parametrize("policy", [{"keep_last_states": 0}, {"keep_last_adapters": 0}, {"grace_s": -1.0}])
def test_a_policy_keeps_at_least_the_newest(policy):
    with pytest.raises(ValueError):
        RetentionPolicy(**policy)


def test_a_thinned_checkpoint_is_fetched_without_its_state(estate: Estate):
    old, *_ = estate.steps(3)
    estate.collect(keep_last_states=1)
    assert estate.checkpoints.fetch(estate.world.model_id, old, state=False).state is None
    with pytest.raises(CorruptCheckpoint, match="missing"):
        estate.checkpoints.fetch(estate.world.model_id, old)
