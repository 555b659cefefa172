from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, text

from store.backup import NotABackup, back_up, restore
from store.blob_stores.file import FileBlobStore
from store.database import AsyncDatabase, Database
from store.invariants import check_all
from store.retention.lock import keeping_files
from store.rollouts import NewSample, TraceRecord, record
from store.rollouts.trainer_logprobs import Pass, keep_trainer_logprobs
from store.tables import ApiKeyRow, Base, ModelRow, OperationRow
from store.verification import verify
from tests.ports.blob_places import blob_place_beside
from tests.ports.checkpoint_places import KINDS, Place
from tests.unit.store.conftest import Estate
from tests.unit.store.rollouts.conftest import make_turns
from tests.unit.store.rollouts.test_recorded_pictures import episode, kept, put_on_record
from wire.errors import Conflict, CorruptCheckpoint, NotFound


@pytest.fixture(params=KINDS)
def place_kind(request: pytest.FixtureRequest) -> str:
    return request.param


class Target:
    def __init__(self, database: Database, folder: Path, place: Place) -> None:
        self.database = database
        self.checkpoints, self.blobs = place.open(), blob_place_beside(place, folder).open()

    def restore(self, source: Path, **options) -> None:
        restore(source, self.database, self.checkpoints, self.blobs, **options)

    def is_sound(self) -> bool:
        with self.database.session() as session:
            return not check_all(session) and not verify(self.database, self.checkpoints, self.blobs)


@pytest.fixture
def target(other_database: Database, tmp_path: Path, make_place: Callable[[Path], Place]) -> Target:
    return Target(other_database, tmp_path / "target", make_place(tmp_path / "target"))


@pytest.fixture
def new_target(empty_database: Database, tmp_path: Path, make_place: Callable[[Path], Place]) -> Target:
    """Whose database has no schema yet."""
    return Target(empty_database, tmp_path / "target", make_place(tmp_path / "target"))


def write(estate: Estate, name: str = "backup") -> Path:
    folder = estate.folder / name
    back_up(estate.database, estate.checkpoints, estate.blobs, folder)
    return folder


def rows(database: Database, table: str) -> list[tuple]:
    with database.session() as session:
        return sorted(map(tuple, session.execute(text(f"select * from {table}"))), key=str)


def lived_in(estate: Estate) -> None:
    nodes = estate.steps(4)
    estate.fork(nodes[0])
    estate.collect(keep_last_states=2)
    with estate.database.session() as session:
        session.add(
            ApiKeyRow(
                team_id=estate.world.team_id,
                name="ci",
                prefix="hw_x",
                key_hash=b"\x00\\\n\xff",
                role="viewer",
                scopes=["read"],
            )
        )
    pending = estate.blobs.put(b"a large batch")
    estate.operation(
        "forward_backward", state="done", summary={"metrics": {"x": 0.1}}, result=b"\t\\N", payload_blob=pending
    )


def test_a_restored_service_has_the_same_rows_files_and_blobs(estate: Estate, new_target: Target):
    lived_in(estate)
    target = new_target
    target.restore(write(estate))
    for table in ("teams", "api_keys", "models", "checkpoints", "operations", "events", "traces"):
        assert rows(target.database, table) == rows(estate.database, table), table
    assert target.is_sound()
    nodes = {stored.checkpoint: stored.has_state for stored in target.checkpoints.stored()}
    assert nodes == {stored.checkpoint: stored.has_state for stored in estate.checkpoints.stored()}


async def test_rollouts_come_back_with_what_the_trainer_made_of_them(
    estate: Estate, target: Target, async_database: AsyncDatabase
):
    (turn,), trace_id, model_id = make_turns(1), uuid.uuid4(), estate.world.model_id
    sample = NewSample(estate.world.team_id, trace_id, turn)
    await record(async_database, estate.blobs, [TraceRecord(estate.world.team_id, trace_id, [sample])])
    with estate.database.connection() as connection:
        made_by = Pass(estate.operation("forward", state="done", result=b"r"), model_id, None, 0)
        assert keep_trainer_logprobs(connection, made_by, trace_id, {sample.digest: turn.sampling_logprobs}) == 1
    target.restore(write(estate))
    for table in ("traces", "samples", "trainer_logprobs"):
        kept = rows(estate.database, table)
        assert (len(kept), rows(target.database, table)) == (1, kept), table
    assert target.is_sound()


async def test_pictures_come_back_with_the_rollouts_that_name_them(
    estate: Estate, target: Target, async_database: AsyncDatabase
):
    estate.step()
    pictures = await kept(async_database, estate.blobs, estate.world, b"a", b"b")
    trace_id = await put_on_record(async_database, estate.blobs, estate.world, episode(pictures))
    target.restore(write(estate))
    assert target.is_sound()
    for table in ("pictures", "trace_pictures", "samples"):
        assert rows(target.database, table) == rows(estate.database, table)
    assert [target.blobs.get(each.name) for each in pictures] == [b"a", b"b"]
    assert {str(row[1]) for row in rows(target.database, "trace_pictures")} == {str(trace_id)}


def test_what_belonged_to_processes_is_ended(estate: Estate, target: Target, add_checkpoint):
    token = estate.lease()
    estate.step()
    running = estate.operation("optim_step", state="running", lease_token=token, started_at=func.clock_timestamp())
    staged = add_checkpoint("staged")
    target.restore(write(estate))
    assert target.is_sound()
    with target.database.session() as session:
        assert session.get_one(OperationRow, running).state == "queued"
        assert session.scalar(text("select status from checkpoints where id = :id"), {"id": staged}) == "rejected"
        assert session.scalar(text("select count(*) from trainers where stopped_at is null")) == 0
        assert session.scalar(text("select nextval('lease_tokens')")) > token


def test_what_changes_while_the_backup_is_written_is_not_in_it(
    estate: Estate, target: Target, monkeypatch: pytest.MonkeyPatch
):
    """Rows are as of one moment, and the files that those rows name are all there."""
    import store.backup.writing as writing

    first = estate.step()
    dumped = writing._dump

    def dump_slowly(connection, table, columns, folder):
        path = dumped(connection, table, columns, folder)
        if table == "models":
            estate.step()
        return path

    monkeypatch.setattr(writing, "_dump", dump_slowly)
    target.restore(write(estate))
    assert {stored.checkpoint for stored in target.checkpoints.stored()} == {first}
    assert target.is_sound()


def test_nothing_is_collected_while_a_backup_is_written(estate: Estate, monkeypatch: pytest.MonkeyPatch):
    import store.backup.writing as writing

    nodes = estate.steps(3)
    copied = writing._copy_checkpoint

    def copy_late(*args):
        with pytest.raises(Conflict):
            estate.collect(keep_last_states=1)
        return copied(*args)

    monkeypatch.setattr(writing, "_copy_checkpoint", copy_late)
    write(estate)
    assert estate.with_state() == set(nodes)


def test_a_base_may_lie_elsewhere_on_the_new_machine(estate: Estate, target: Target):
    estate.step()
    backup = write(estate)
    target.restore(backup, base_weights={"BASE": "/elsewhere"})
    with target.database.session() as session:
        assert session.get_one(ModelRow, estate.world.base_id).weights == "/elsewhere"


def test_a_base_that_is_not_in_the_backup_is_refused(estate: Estate, target: Target):
    backup = write(estate)
    with pytest.raises(NotFound, match="no base model 'other'"):
        target.restore(backup, base_weights={"other": "/elsewhere"})
    assert rows(target.database, "models") == []


def test_a_service_that_is_not_empty_is_not_restored_into(estate: Estate, target: Target):
    estate.step()
    backup = write(estate)
    with pytest.raises(Conflict, match="the database is not empty"):
        restore(backup, estate.database, target.checkpoints, target.blobs)
    target.blobs.put(b"x")
    with pytest.raises(Conflict, match="blob store is not empty"):
        target.restore(backup)
    with pytest.raises(Conflict, match="checkpoint store is not empty"):
        restore(backup, target.database, estate.checkpoints, FileBlobStore(estate.folder / "new"))
    assert rows(target.database, "models") == []


@pytest.mark.parametrize("harm", ["flip", "remove"])
@pytest.mark.parametrize("pattern", ["tables/models.copy", "checkpoints/**/state.safetensors", "blobs/*"])
def test_a_harmed_backup_is_refused_and_nothing_is_restored(estate: Estate, target: Target, pattern: str, harm: str):
    lived_in(estate)
    backup = write(estate)
    path = next(p for p in backup.glob(pattern) if p.is_file())
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(NotABackup, match=path.name):
        target.restore(backup)
    assert rows(target.database, "models") == []
    assert not list(target.checkpoints.stored())


def test_a_backup_that_was_cut_short_or_is_of_another_schema_is_refused(estate: Estate, target: Target):
    backup = write(estate)
    manifest = backup / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace('"revision": "', '"revision": "9'))
    with pytest.raises(NotABackup, match="restore it with the version that wrote it"):
        target.restore(backup)
    manifest.write_text(whole[:-5])
    with pytest.raises(NotABackup, match="cannot be read"):
        target.restore(backup)
    manifest.unlink()
    with pytest.raises(NotABackup, match="no complete backup"):
        target.restore(backup)


def test_a_harmed_service_is_not_backed_up_as_if_it_were_sound(estate: Estate):
    checkpoint = estate.step()
    estate.path(checkpoint, "state/state.safetensors").write_bytes(b"?")
    with pytest.raises(CorruptCheckpoint, match="altered"):
        write(estate)
    assert not (estate.folder / "backup" / "manifest.json").exists()
    estate.collect()  # the lock was given back


def test_a_backup_needs_a_folder_of_its_own(estate: Estate):
    backup = write(estate)
    with pytest.raises(FileExistsError):
        write(estate)
    shutil.rmtree(backup)
    write(estate)


def test_every_table_is_dumped_or_left_out_on_purpose():
    from store.backup.manifest import dumped_tables

    left_out = {table.name for table in Base.metadata.sorted_tables} - dumped_tables().keys()
    assert left_out == {
        "model_leases",
        "samplers",
        "service",
        "sampler_adapters",
        "adapter_wants",
        "servers",
        "trainer_starts",
        "contractions",
    }


def test_readers_share_the_lock(estate: Estate):
    estate.step()
    with keeping_files(estate.database):
        write(estate)
