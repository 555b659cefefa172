"""Pictures of recorded rollouts: each turn has its own back, two behind equal ids stay two, and a trace names them."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select

from store.blob_stores import BlobStore
from store.database import AsyncDatabase, Database
from store.invariants import check_all
from store.pictures import PictureStore
from store.rollouts import Conversation, NewSample, TraceRecord, read_rollouts, record, resolve
from store.rollouts.media import named_in, pack_media, unpack_media
from store.rollouts.samples import pack_samples
from store.tables import PictureRow, SampleRow, TracePictureRow
from tests.unit.conftest import World
from tests.unit.store.rollouts.conftest import served
from wire.conversion import to_datums
from wire.extension import Media, TokenSequence, joined
from wire.pictures import Picture
from wire.trajectories import Batch, Trajectory, Turn

PAD = 9


def text(*ids: int) -> TokenSequence:
    return TokenSequence(np.array(ids, np.int32))


def shown(picture: Picture, num_tokens: int = 3) -> TokenSequence:
    item = Media(0, num_tokens, picture.digest, picture.width, picture.height)
    return TokenSequence(np.full(num_tokens, PAD, np.int32), (item,))


def turn_of(*parts: TokenSequence, output: int = 5) -> Turn:
    prompt = joined(*parts)
    return Turn(prompt.ids, np.array([output, 6], np.int32), np.array([-0.5, -0.25], np.float32), prompt.media)


def episode(pictures: list[Picture]) -> list[Turn]:
    """A screenshot a turn; each prompt is the last prompt, its output and the next screenshot."""
    turns, history = list[Turn](), [text(1, 2)]
    for number, picture in enumerate(pictures):
        history += [shown(picture), text(3)]
        turns.append(turn_of(*history, output=10 + number))
        history.append(turns[-1].output)
    return turns


async def kept(database: AsyncDatabase, blobs: BlobStore, world: World, *contents: bytes) -> list[Picture]:
    pictures = [Picture(blobs.put(content), 64, 48) for content in contents]
    await PictureStore(database).add(world.team_id, [(each, 1) for each in pictures])
    return pictures


def rows(database: Database, kind: type) -> list[Any]:
    with database.session() as session:
        return list(session.scalars(select(kind)))


def same(one: Turn, other: Turn) -> bool:
    return (one.prompt.key, one.output.key, one.media) == (other.prompt.key, other.output.key, other.media)


async def put_on_record(database: AsyncDatabase, blobs: BlobStore, world: World, turns: list[Turn]) -> UUID:
    trace_id = uuid.uuid4()
    for turn in turns:
        sample = NewSample(world.team_id, trace_id, turn, served())
        await record(database, blobs, [TraceRecord(world.team_id, trace_id, [sample], model="m")])
    return trace_id


async def test_turns_have_their_pictures_back_and_cost_each_once(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore
) -> None:
    pictures = await kept(async_database, blobs, world, b"a", b"b", b"c")
    turns = episode([*pictures, pictures[0]])
    trace_id = await put_on_record(async_database, blobs, world, turns)
    (rollout,) = (await read_rollouts(async_database, blobs, world.team_id, [trace_id])).values()
    assert all(same(found.turn, turn) for found, turn in zip(rollout.others, turns, strict=True))
    assert [len(unpack_media(row.media)) for row in rows(database, SampleRow)] == [1, 1, 1, 1]
    assert {row.name for row in rows(database, TracePictureRow)} == {each.name for each in pictures}
    assert all(row.is_recorded for row in rows(database, PictureRow))
    with database.session() as session:
        assert check_all(session) == []


async def test_a_picture_of_a_sample_that_its_trace_does_not_name_is_found(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore
) -> None:
    one, other = await kept(async_database, blobs, world, b"a", b"b")
    await put_on_record(async_database, blobs, world, [turn_of(shown(one), text(1), shown(other), text(2))])
    with database.session() as session:
        session.execute(delete(TracePictureRow).where(TracePictureRow.name == other.name))
        (violation,) = check_all(session)
    assert violation.name == "rollouts name the pictures of their samples"
    assert [row["picture"] for row in violation.rows] == [other.name]


async def test_by_trace_id_a_rollout_is_the_one_datum_that_its_turns_are_inline(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
) -> None:
    turns = episode(await kept(async_database, blobs, world, b"a", b"b"))
    trace_id = await put_on_record(async_database, blobs, world, turns)
    found = (await resolve(async_database, blobs, world.team_id, [trace_id]))[trace_id]
    recorded = Trajectory(tuple(sample.turn for sample in found.samples), 1.0)
    (inline,), (by_id,) = (to_datums(Batch([each])) for each in (Trajectory(tuple(turns), 1.0), recorded))
    assert inline.model_input.key == by_id.model_input.key
    assert len(by_id.model_input.media) == 2
    assert all(same(one, other) for one, other in zip(by_id.turns(), turns, strict=True))


async def test_turns_that_differ_in_a_picture_alone_are_two_samples_and_share_what_is_before_it(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore
) -> None:
    one, other = await kept(async_database, blobs, world, b"cat", b"dog")
    turns = [turn_of(text(1, 2), shown(each), text(3)) for each in (one, other)]
    later = [turn_of(turn.prompt, turn.output, text(4)) for turn in turns]
    trace_id = await put_on_record(async_database, blobs, world, [*turns, *later])
    (rollout,) = (await read_rollouts(async_database, blobs, world.team_id, [trace_id])).values()
    assert all(same(found.turn, turn) for found, turn in zip(rollout.others, [*turns, *later], strict=True))
    digests = [sample.digest for sample in rollout.others]
    parents = {row.digest: row.parent_digest for row in rows(database, SampleRow)}
    assert [parents[digest] for digest in digests] == [None, None, digests[0], digests[1]]


def test_a_sample_whose_end_lies_inside_of_a_later_picture_is_no_parent(world: World, blobs: BlobStore) -> None:
    """Its ids are the same, since a policy may sample the placeholder's id: text, not part of a picture."""
    stray = turn_of(text(1, 2), text(PAD))
    seen = turn_of(text(1, 2), shown(Picture("0a" * 32, 64, 48)), text(3))
    packed = pack_samples([NewSample(world.team_id, uuid.uuid4(), each) for each in (stray, seen)], [], blobs)
    assert packed[1].values["parent_digest"] is None


async def test_a_trace_names_the_pictures_of_its_conversations_that_its_team_has(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore
) -> None:
    """Those of another vendor's model, say, whose tokens are not known."""
    (own,) = await kept(async_database, blobs, world, b"own")
    unknown = Picture("0c" * 32, 8, 8)
    parts = [{"type": "picture", "name": each.name, "width": 1, "height": 1} for each in (own, unknown)]
    asked = Conversation({}, [{"role": "user", "content": parts}], {"role": "assistant", "content": "a cat"})
    none = np.zeros(0, np.int32)
    sample = NewSample(world.team_id, uuid.uuid4(), Turn(none, none, none.astype(np.float32)), served(asked))
    await record(async_database, blobs, [TraceRecord(world.team_id, sample.trace_id, [sample], model="m")])
    assert [row.name for row in rows(database, TracePictureRow)] == [own.name]


def test_pictures_are_found_wherever_messages_have_them() -> None:
    name, other = "0a" * 32, "0b" * 32
    messages = [
        {"role": "user", "content": [{"type": "picture", "name": name}, {"type": "text", "text": other}]},
        {"role": "tool", "content": [{"type": "tool_result", "content": [{"type": "picture", "name": other}]}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"sha256:{name}"}}]},
        {"role": "user", "content": [{"type": "picture", "name": "short"}, {"type": "picture", "name": 5}]},
        {"role": "user", "content": "picture", "url": {"url": "sha256:"}},
        "no object",
    ]
    assert sorted(named_in(messages)) == [name, name, other]


MEDIA = st.builds(
    Media,
    *(st.integers(0, 2**32 - 1) for _ in range(2)),
    st.binary(min_size=32, max_size=32),
    *(st.integers(0, 2**32 - 1) for _ in range(2)),
)


@given(st.lists(MEDIA))
def test_media_come_back_from_their_bytes(media: list[Media]) -> None:
    assert unpack_media(pack_media(media)) == tuple(media)


@pytest.mark.parametrize("data", [b"\x02", b"\x01abc", b""])
def test_media_of_another_version_are_not_read(data: bytes) -> None:
    with pytest.raises(ValueError, match="unknown version"):
        unpack_media(data)


def test_a_sample_is_known_by_its_pictures(world: World) -> None:
    turn = turn_of(shown(Picture("0a" * 32, 64, 48)), text(1))
    others = [
        turn_of(shown(Picture("0b" * 32, 64, 48)), text(1)),
        replace(turn, media=()),
        replace(turn, media=(replace(turn.media[0], num_tokens=2),)),
    ]
    digests = {NewSample(world.team_id, uuid.uuid4(), each).digest for each in (turn, *others)}
    assert len(digests) == 4
