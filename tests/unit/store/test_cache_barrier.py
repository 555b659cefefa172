from __future__ import annotations

import ast
import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

import store.database
from store.blob_stores.file import FileBlobStore
from store.cache_barrier import CACHED_TABLES, changes_cached
from store.database import AsyncDatabase
from store.operation_kinds import KINDS, SERVED_CHANGERS
from store.oplog.results import wait_for_result
from store.oplog.waiting import WaitingCalls
from store.planes import promotion, serving
from store.tables import ApiKeyRow, EventRow, ModelRow, OperationRow, SamplerRow, TeamRow
from tests.rules import PACKAGES
from tests.unit.conftest import World, looking_after_calls
from tests.unit.store.test_oplog import append
from wire.payload import encode

Act = Callable[[AsyncSession, World], Awaitable[object]]


async def add_a_row(session: AsyncSession, world: World) -> None:
    session.add(TeamRow(name="blues"))


async def change_a_row(session: AsyncSession, world: World) -> None:
    (await session.get_one(ModelRow, world.model_id)).head_version += 1


async def change_a_row_and_flush(session: AsyncSession, world: World) -> None:
    await change_a_row(session, world)
    await session.flush()


async def delete_a_row(session: AsyncSession, world: World) -> None:
    await session.delete(await session.get_one(ModelRow, world.model_id))


async def change_beneath(session: AsyncSession, world: World) -> None:
    await session.run_sync(lambda sync: sync.execute(update(ModelRow).values(name="other")))


CHANGES: dict[str, Act] = {
    "add": add_a_row,
    "change": change_a_row,
    "flush": change_a_row_and_flush,
    "delete": delete_a_row,
    "run_sync": change_beneath,
    "update": lambda session, world: session.execute(update(TeamRow).values(max_models=3)),
    "insert": lambda session, world: session.scalar(insert(TeamRow).values(name="greens").returning(TeamRow.id)),
    "core delete": lambda session, world: session.execute(delete(SamplerRow)),
    "table": lambda session, world: session.execute(update(ApiKeyRow.__table__).values(name="x")),
    "text": lambda session, world: session.execute(text("update samplers set drained_at = now()")),
}


async def read_and_lock(session: AsyncSession, world: World) -> None:
    model = await session.get_one(ModelRow, world.model_id, with_for_update=True)
    model.name = str(model.name)


NO_CHANGES: dict[str, Act] = {
    "read": read_and_lock,
    "select": lambda session, world: session.execute(select(TeamRow)),
    "text": lambda session, world: session.execute(text("select updated from (select now() as updated) samplers")),
    "another table": lambda session, world: session.execute(insert(EventRow).values(action="x")),
}


@pytest.fixture
def waits(async_database: AsyncDatabase, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """For each wait of the task that asks, how many connections were in use. (Others may beat hearts meanwhile.)"""
    found: dict[asyncio.Task[Any] | None, list[int]] = defaultdict(list)

    async def wait() -> None:
        num_in_use = sum(in_use for in_use, _, _ in async_database.connections().values())
        found[asyncio.current_task()].append(num_in_use)

    monkeypatch.setattr(store.database, "wait_until_caches_expire", wait)
    return lambda: found[asyncio.current_task()]


@pytest_asyncio.fixture
async def waiting_calls(async_database: AsyncDatabase) -> AsyncIterator[WaitingCalls]:
    """With connections of its own: those of the test's are counted."""
    database = AsyncDatabase(async_database.url.render_as_string(hide_password=False))
    async with looking_after_calls(database) as calls:
        yield calls
    await database.close()


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES.keys())
async def test_a_session_that_changed_what_is_cached_waits_without_its_connection(async_database, world, waits, act):
    async with async_database.session() as session:
        await act(session, world)
        assert waits() == []
    assert waits() == [0]


@pytest.mark.parametrize("act", NO_CHANGES.values(), ids=NO_CHANGES.keys())
async def test_other_sessions_do_not_wait(async_database, world, waits, act):
    async with async_database.session() as session:
        await act(session, world)
    assert waits() == []


async def test_a_session_that_was_rolled_back_does_not_wait(async_database, world, waits):
    with pytest.raises(IntegrityError):  # noqa: PT012
        async with async_database.session() as session:
            await change_a_row_and_flush(session, world)
            await session.execute(delete(ModelRow))
    assert waits() == []


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_only_what_changed_what_is_served_is_answered_late(
    async_database, database, world, waiting_calls, waits, tmp_path, kind, is_large
):
    operation, blobs, result = (
        await append(async_database, world, kind),
        FileBlobStore(tmp_path),
        encode({"metrics": {}}),
    )
    stored = {"result_blob": blobs.put(result)} if is_large else {"result": result}
    with database.session() as session:
        session.execute(update(OperationRow).values(state="done", **stored))
    await wait_for_result(async_database, waiting_calls, blobs, operation.id, 5.0)
    assert waits() == ([0] if kind in SERVED_CHANGERS else [])


def test_every_table_that_chats_look_up_is_watched():
    found = [statement.decode() for statement in serving._STATEMENTS.values()]
    statements = [*found, serving._HOLDING, promotion._VOTES, promotion._LATE]
    read = {name for sql in statements for name in re.findall(r"\b(?:from|join)\s+([a-z_]+)\b", sql)}
    assert read - {"k", "wanted", "lateral", "unnest", "clock_timestamp"} == CACHED_TABLES | {"adapter_wants"}


KNOWN = {
    "store/oplog/append.py": "the number of the next operation, which is not cached",
    "store/oplog/statements.py": "a trainer moves the head; its step's result waits",
    "store/oplog/client_order.py": "the numbers of next operations, which are not cached",
    "store/oplog/saves.py": "a save changes what a name stands for; its result waits",
    "store/oplog/unsaved.py": "a step that promotes nothing leaves what a name stands for",
    "store/oplog/leaving.py": "a trainer that leaves removes what no head points at",
    "store/retention/runs.py": "removes runs that nobody has used for long; nobody is answered",
    "store/retention/marking.py": "removes the files of what no chat asks for; nobody is answered",
    "store/retention/removed_models.py": "removes the files of models that nobody finds; nobody is answered",
    "store/model_removal.py": "run by sessions, which wait",
    "store/keys.py": "when keys were used, which is not cached",
    "store/planes/registration.py": "samplers show their heartbeat, and answer nobody",
    "store/planes/adapters.py": "samplers report what they hold, and answer nobody",
    "server/guard/checking.py": "when the guard has looked, which is not cached",
    "store/backup/restoring.py": "no server runs on what is being restored",
}


def test_statements_outside_sessions_that_change_what_is_cached_are_known():
    """A new one has to wait as sessions do, or to say here why it need not."""
    files = [path for package in PACKAGES for path in Path(package).rglob("*.py")]
    writing = {
        str(path)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and changes_cached(node.value)
    }
    assert writing == KNOWN.keys()
