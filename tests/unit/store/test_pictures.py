"""A picture is its team's alone, and is there as long as somebody may need it, and no longer."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import func, update

from store.database import AsyncDatabase
from store.oplog.append import append_operation, place_payload
from store.pictures import PictureStore
from store.tables import (
    ClientSessionRow,
    OperationRow,
    PictureRow,
    SamplingRequestRow,
    SamplingSessionRow,
    TeamRow,
    TracePictureRow,
    TraceRow,
)
from store.usage import storage_of
from store.verification import verify
from tests.unit.store.conftest import DAY_S, Estate
from wire.datum_payload import encode_datums
from wire.datums import fully_scored
from wire.extension import Media, TokenSequence
from wire.pictures import Picture


@pytest.fixture
def pictures(async_database: AsyncDatabase) -> PictureStore:
    return PictureStore(async_database)


def other_team(estate: Estate) -> UUID:
    with estate.database.session() as session:
        team = TeamRow(name="blues")
        session.add(team)
        session.flush()
        return team.id


async def sent(estate: Estate, pictures: PictureStore, content: bytes, team_id: UUID | None = None) -> Picture:
    """As the server keeps one: the blob, then the row."""
    picture = Picture(estate.blobs.put(content), 64, 48)
    await pictures.add(team_id or estate.world.team_id, [(picture, len(content))])
    return picture


def age_pictures(estate: Estate, by_s: float) -> None:
    past = func.clock_timestamp() - timedelta(seconds=by_s)
    with estate.database.session() as session:
        session.execute(update(PictureRow).values(last_used_at=past))


def removed(estate: Estate, **policy: Any) -> set[str]:
    """Names of the blobs that a collection removes, all being old enough."""
    estate.age_files()
    return {removal.name for removal in estate.collect(**policy) if removal.what == "blob"}


async def test_a_picture_is_known_to_the_teams_that_sent_it(estate: Estate, pictures: PictureStore) -> None:
    mine, theirs = await sent(estate, pictures, b"mine"), await sent(estate, pictures, b"theirs", other_team(estate))
    names = [mine.name, theirs.name, "0" * 64]
    for ask in (pictures.known, pictures.read):
        assert await ask(estate.world.team_id, names) == {mine.name: mine}
        assert await ask(estate.world.team_id, []) == {}


async def test_a_picture_is_kept_for_a_time_after_it_was_used_last(estate: Estate, pictures: PictureStore) -> None:
    used, idle = await sent(estate, pictures, b"used"), await sent(estate, pictures, b"idle")
    age_pictures(estate, 2 * DAY_S)
    assert await pictures.known(estate.world.team_id, [used.name]) == {used.name: used}
    assert removed(estate) == {idle.name}
    assert await pictures.known(estate.world.team_id, [used.name, idle.name]) == {used.name: used}
    assert await pictures.read(estate.world.team_id, [used.name, idle.name]) == {used.name: used}


async def test_a_picture_that_is_sent_again_is_young_again(estate: Estate, pictures: PictureStore) -> None:
    await sent(estate, pictures, b"again")
    age_pictures(estate, 2 * DAY_S)
    await sent(estate, pictures, b"again")
    assert removed(estate) == set()


async def test_looking_at_a_picture_does_not_keep_it(estate: Estate, pictures: PictureStore) -> None:
    seen = await sent(estate, pictures, b"seen")
    age_pictures(estate, 2 * DAY_S)
    await pictures.read(estate.world.team_id, [seen.name])
    assert removed(estate) == {seen.name}


async def test_pictures_are_used_by_many_at_once_without_waiting_in_a_circle(
    estate: Estate, pictures: PictureStore
) -> None:
    kept = [await sent(estate, pictures, bytes([number])) for number in range(20)]
    names = [picture.name for picture in kept]
    for _ in range(5):
        age_pictures(estate, 120)
        orders = [names, names[::-1]] * 4
        found = await asyncio.gather(*(pictures.known(estate.world.team_id, order) for order in orders))
        assert all(len(each) == 20 for each in found)


async def test_a_dry_run_says_what_would_go_and_leaves_it(estate: Estate, pictures: PictureStore) -> None:
    idle = await sent(estate, pictures, b"idle")
    age_pictures(estate, 2 * DAY_S)
    said = [removal.name for removal in estate.collect(dry_run=True) if removal.what == "picture"]
    assert said == [f"{estate.world.team_id.hex}/{idle.name}"]
    assert await pictures.read(estate.world.team_id, [idle.name])


def batch_with(picture: Picture) -> bytes:
    ids = np.array([1, 9, 9, 2], np.int32)
    seen = TokenSequence(ids, (Media(1, 2, picture.digest, picture.width, picture.height),))
    return encode_datums([fully_scored(seen, ids, 0)], {})


async def logged(estate: Estate, database: AsyncDatabase, payload: bytes) -> UUID:
    async with database.connection() as connection:
        placed = place_payload(estate.blobs, payload)
        model_id = estate.world.model_id
        return (await append_operation(connection, model_id=model_id, kind="forward_backward", **placed)).id


async def test_a_picture_is_kept_while_a_trainer_may_read_the_payload_that_names_it(
    estate: Estate, pictures: PictureStore, async_database: AsyncDatabase
) -> None:
    trained = await sent(estate, pictures, b"trained")
    operation_id = await logged(estate, async_database, batch_with(trained))
    age_pictures(estate, 30 * DAY_S)
    estate.age_operations()
    assert removed(estate) == set()
    with estate.database.session() as session:
        row = session.get_one(OperationRow, operation_id)
        assert (row.pictures, row.payload_blob) == ([trained.name], None)
        row.state, row.finished_at = "failed", func.clock_timestamp() - timedelta(days=2)
    assert removed(estate) == {trained.name}


async def test_an_operation_without_pictures_names_none(estate: Estate, async_database: AsyncDatabase) -> None:
    ids = np.array([1, 2], np.int32)
    payload = encode_datums([fully_scored(TokenSequence(ids), ids, 0)], {})
    operation_id = await logged(estate, async_database, payload)
    with estate.database.session() as session:
        assert session.get_one(OperationRow, operation_id).pictures is None


async def test_a_picture_is_kept_while_a_request_to_sample_is_open(estate: Estate, pictures: PictureStore) -> None:
    asked = await sent(estate, pictures, b"asked")
    request_id = uuid.uuid4()
    with estate.database.session() as session:
        team_id = estate.world.team_id
        session.add(ClientSessionRow(id="s", team_id=team_id))
        session.flush()
        row = {"id": "p", "session_id": "s", "session_index": 0, "team_id": team_id, "kind": "base"}
        session.add(SamplingSessionRow(**row, model_id=estate.world.base_id))
        session.flush()
        request = {"id": request_id, "sampling_session_id": "p", "client_sequence": 1, "team_id": team_id}
        session.add(SamplingRequestRow(**request, request=b"", pictures=[asked.name]))
    age_pictures(estate, 30 * DAY_S)
    assert removed(estate) == set()
    with estate.database.session() as session:
        session.get_one(SamplingRequestRow, request_id).state = "done"
    assert removed(estate) == {asked.name}


def recorded(estate: Estate, *pictures: Picture, team_id: UUID | None = None) -> UUID:
    """A rollout that names these."""
    trace_id, team_id = uuid.uuid4(), team_id or estate.world.team_id
    with estate.database.session() as session:
        session.add(TraceRow(team_id=team_id, id=trace_id))
        session.flush()
        session.add_all(TracePictureRow(team_id=team_id, trace_id=trace_id, name=each.name) for each in pictures)
        names = [each.name for each in pictures]
        session.execute(
            update(PictureRow).where(PictureRow.team_id == team_id, PictureRow.name.in_(names)).values(is_recorded=True)
        )
    return trace_id


def delete(estate: Estate, trace_id: UUID) -> None:
    with estate.database.session() as session:
        session.delete(session.get_one(TraceRow, (estate.world.team_id, trace_id)))


async def test_deleting_a_rollout_deletes_its_pictures_but_for_those_of_others(
    estate: Estate, pictures: PictureStore
) -> None:
    own, shared = await sent(estate, pictures, b"own"), await sent(estate, pictures, b"shared")
    going, staying = recorded(estate, own, shared), recorded(estate, shared)
    assert removed(estate, grace_s=0) == set()
    delete(estate, going)
    # A request that is under way may have named it just now.
    assert removed(estate) == set()
    age_pictures(estate, 2 * 3600)
    assert removed(estate) == {own.name}
    assert await pictures.read(estate.world.team_id, [own.name, shared.name]) == {shared.name: shared}
    delete(estate, staying)
    assert removed(estate) == {shared.name}


async def test_a_blob_stays_for_the_other_team_that_sent_the_same(estate: Estate, pictures: PictureStore) -> None:
    other = other_team(estate)
    same = await sent(estate, pictures, b"same")
    await sent(estate, pictures, b"same", other)
    delete(estate, recorded(estate, same))
    with estate.database.session() as session:
        mine = update(PictureRow).where(PictureRow.team_id == estate.world.team_id)
        session.execute(mine.values(last_used_at=func.clock_timestamp() - timedelta(hours=2)))
    assert removed(estate) == set()
    assert await pictures.read(estate.world.team_id, [same.name]) == {}
    assert await pictures.read(other, [same.name]) == {same.name: same}


async def test_pictures_count_as_storage_of_their_team(
    estate: Estate, pictures: PictureStore, async_database: AsyncDatabase
) -> None:
    await sent(estate, pictures, b"12345")
    await sent(estate, pictures, b"12345")
    await sent(estate, pictures, b"1234567", other_team(estate))
    async with async_database.session() as session:
        assert await storage_of(session, estate.world.team_id) == 5


async def test_verification_finds_a_picture_that_is_missing_or_was_altered(
    estate: Estate, pictures: PictureStore
) -> None:
    whole, gone = await sent(estate, pictures, b"whole"), await sent(estate, pictures, b"gone")
    path = estate.folder / "blobs" / whole.name[:2] / whole.name
    path.write_bytes(b"another")
    (estate.folder / "blobs" / gone.name[:2] / gone.name).unlink()
    damages = verify(estate.database, estate.checkpoints, estate.blobs)
    assert {(damage.path, damage.what) for damage in damages} == {(whole.name, "changed"), (gone.name, "missing")}
    assert whole.name == hashlib.sha256(b"whole").hexdigest()
