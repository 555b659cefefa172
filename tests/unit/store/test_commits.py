"""What PostgreSQL is asked to have on its disk before anybody is told."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from store.blob_stores.file import FileBlobStore
from store.database import AsyncDatabase, Database
from store.oplog import work
from store.oplog.results import wait_for_result
from store.oplog.waiting import WaitingCalls
from tests.unit.conftest import World
from tests.unit.store.test_oplog import append, finish_pass, start, take
from wire.payload import encode

_WATCH = """
    create table commits (what text, state text, synchronous_commit text);
    create function note_commit() returns trigger language plpgsql as $$ begin
        insert into commits values (tg_table_name, tg_argv[0], current_setting('synchronous_commit'));
        return null;
    end $$;
    create constraint trigger appended after insert on operations deferrable initially deferred
        for each row execute function note_commit('appended');
    create constraint trigger finished after update on operations deferrable initially deferred
        for each row when (new.state in ('done', 'failed') and old.state = 'running')
        execute function note_commit('finished');
    create constraint trigger answered after update on operations deferrable initially deferred
        for each row when (new.answered_at is not null and old.answered_at is null)
        execute function note_commit('answered');
    create constraint trigger committed after update on checkpoints deferrable initially deferred
        for each row when (new.status = 'committed') execute function note_commit('committed');
    create constraint trigger moved after update on models deferrable initially deferred
        for each row when (new.head_version > old.head_version) execute function note_commit('moved');
    create constraint trigger leased after insert or update on model_leases deferrable initially deferred
        for each row execute function note_commit('leased');
"""
_FORGET = "drop function note_commit() cascade; drop table commits"


@contextmanager
def watched_commits(database: Database) -> Generator[None]:
    """Have each transaction write down, as it commits, whether it waits for the disk."""
    with database.connection() as connection:
        connection.execute(_WATCH)
    try:
        yield
    finally:
        with database.connection() as connection:
            connection.execute(_FORGET)


async def test_whatever_is_acknowledged_waits_for_the_disk(
    async_database: AsyncDatabase,
    database: Database,
    world: World,
    add_checkpoint,
    tmp_path: Path,
    waiting_calls: WaitingCalls,
):
    with watched_commits(database):
        await append(async_database, world)
        lease = take(database, world)
        done = finish_pass(database, lease)
        await wait_for_result(async_database, waiting_calls, FileBlobStore(tmp_path), done.id, 5.0)
        await append(async_database, world, "optim_step")
        step, model = start(database, lease)
        with database.connection() as connection:
            work.commit_step(connection, lease, step, model, add_checkpoint("staged"), encode({}))
        with database.connection() as connection:
            noted = connection.execute("select distinct state, synchronous_commit from commits").fetchall()
    assert {tuple(row) for row in noted} == {
        (state, "on") for state in ("appended", "finished", "answered", "committed", "moved", "leased")
    }
