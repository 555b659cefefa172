"""Spans of rollouts with screenshots: read as the gateway recorded them, and no picture is stored twice."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from store.blob_stores import BlobStore
from store.database import AsyncDatabase, Database
from store.retention.collecting import Collector
from store.retention.policy import RetentionPolicy
from store.rollouts import NewSample, TraceRecord, read_recorded, read_rollouts, read_span, read_spans, record
from store.rollouts.contents import Content, content_of, put_back, taken_out
from store.rollouts.payloads import unpack_payload
from store.rollouts.spans import MALFORMED_SAMPLE, PROMPT_CHUNKS, UNKNOWN_PICTURE, with_pictures
from store.tables import TracePictureRow, TraceRow
from tests.unit.conftest import World
from tests.unit.store.conftest import Estate
from tests.unit.store.rollouts.conftest import agent_span, span
from tests.unit.store.rollouts.test_recorded_pictures import episode, kept, same, turn_of
from wire.pictures import Picture
from wire.prompt_chunks import to_chunks
from wire.trajectories import Turn

TRACE = uuid.uuid4()
CAT, DOG = Picture("0a" * 32, 64, 48), Picture("0b" * 32, 64, 48)
KNOWN = {each.name: each for each in (CAT, DOG)}


def in_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def step(turn: Turn, **sample: Any) -> dict[str, Any]:
    """An agent's step as the SDK sends it, with the chunks of its prompt in the sample and in the completion."""
    sent = agent_span(TRACE, 1, turn)
    payload = sent["attributes"]["hud.payload"]
    payload["sample"] |= {"prompt_chunks": to_chunks(turn.prompt), **sample}
    payload["raw"]["choices"][0]["prompt_chunks"] = to_chunks(turn.prompt)
    return sent


def test_a_step_is_the_sample_that_the_gateway_recorded() -> None:
    for turn in episode([CAT, DOG, CAT]):
        found = with_pictures(read_span(step(turn), TRACE), KNOWN)
        assert found.flag is None
        assert found.turn is not None
        assert same(found.turn, turn)
        assert found.sample_digest == NewSample(uuid.uuid4(), TRACE, turn).digest


def test_a_span_with_chunks_comes_back_as_it_was_sent_and_repeats_nothing() -> None:
    turn = turn_of(*(each.prompt for each in episode([CAT] * 200)[-1:]))
    sent = step(turn)
    found = read_span(sent, TRACE)
    assert in_json(unpack_payload(found.payload, found.turn)) == in_json(sent)
    assert len(found.payload) < 800 < 40_000 < found.num_bytes


@pytest.mark.parametrize("alter", [lambda c: c.pop("format"), lambda c: c.update(format="png", location=CAT.location)])
def test_other_chunks_than_those_of_the_sample_stay_in_the_span(alter: Any) -> None:
    (turn,) = episode([DOG])
    sent = step(turn)
    alter(sent["attributes"]["hud.payload"]["raw"]["choices"][0]["prompt_chunks"][1])
    found = read_span(sent, TRACE)
    assert in_json(unpack_payload(found.payload, found.turn)) == in_json(sent)


IDS = turn_of(*(each.prompt for each in episode([CAT])))


def chunks(**pointer: Any) -> list[dict[str, Any]]:
    first, image, last = to_chunks(IDS.prompt)
    return [first, {**image, **pointer}, last]


@pytest.mark.parametrize(
    ("sample", "flag"),
    [
        ({"prompt_token_ids": None}, PROMPT_CHUNKS),
        ({"prompt_chunks": chunks(expected_tokens=None)}, PROMPT_CHUNKS),
        ({"prompt_chunks": [{"type": "image", "data": "AAAA", "format": "png"}]}, PROMPT_CHUNKS),
        ({"prompt_chunks": chunks(expected_tokens=2)}, MALFORMED_SAMPLE),
        ({"prompt_chunks": chunks(expected_tokens=10**9)}, MALFORMED_SAMPLE),
        ({"prompt_chunks": chunks()[:2]}, MALFORMED_SAMPLE),
        ({"prompt_chunks": [*chunks(), chunks()[1]]}, MALFORMED_SAMPLE),
        ({"prompt_chunks": [{**chunks()[0], "tokens": [1, 3]}, *chunks()[1:]]}, MALFORMED_SAMPLE),
        ({"prompt_token_ids": [1, 2, 9, 9, 8, 3]}, MALFORMED_SAMPLE),
        ({"prompt_chunks": [{}]}, MALFORMED_SAMPLE),
        ({"prompt_chunks": "none"}, MALFORMED_SAMPLE),
        ({"prompt_chunks": [{"type": "dmel"}]}, MALFORMED_SAMPLE),
    ],
)
def test_chunks_that_do_not_say_which_tokens_a_prompt_had_are_flagged(sample: dict[str, Any], flag: str) -> None:
    sent = step(IDS, **sample)
    found = read_span(sent, TRACE)
    assert (found.flag, found.turn, found.sample_digest) == (flag, None, None)
    assert in_json(unpack_payload(found.payload, None)) == in_json(sent)


def test_chunks_of_text_have_the_last_word() -> None:
    sent = step(IDS, prompt_chunks=[{"type": "encoded_text", "tokens": [4]}, {"type": "encoded_text", "tokens": [5]}])
    found = read_span(sent, TRACE)
    assert found.turn is not None
    assert (found.turn.prompt_ids.tolist(), found.turn.media) == ([4, 5], ())
    assert in_json(unpack_payload(found.payload, found.turn)) == in_json(sent)


def test_a_step_with_a_picture_that_the_team_has_not_is_flagged_and_comes_back_as_it_was_sent() -> None:
    sent = step(episode([CAT, DOG])[-1])
    found = with_pictures(read_span(sent, TRACE), {CAT.name: CAT})
    assert (found.flag, found.turn, found.sample_digest) == (UNKNOWN_PICTURE, None, None)
    assert in_json(unpack_payload(found.payload, None)) == in_json(sent)


PIXELS = b"\x89PNG\r\n\x1a\n" + bytes(8) + (640).to_bytes(4, "big") + (480).to_bytes(4, "big") + bytes(5000)
BASE64 = base64.b64encode(PIXELS).decode()
NAME = hashlib.sha256(PIXELS).hexdigest()


@pytest.mark.parametrize(
    "value",
    [
        {"content": [{"type": "image", "data": BASE64, "mimeType": "image/png"}]},
        {"source": {"type": "base64", "media_type": "image/png", "data": BASE64}},
        [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}"}}],
        f"data:image/jpeg;base64,{BASE64}",
    ],
)
def test_a_picture_in_base64_is_taken_out_and_put_back(value: Any) -> None:
    short, contents = taken_out(value)
    assert contents == {NAME: PIXELS}
    assert len(json.dumps(short)) < 300
    assert put_back(short, contents.__getitem__) == value


@pytest.mark.parametrize(
    "value",
    [
        {"data": BASE64},
        {"data": BASE64, "mimeType": "application/pdf"},
        {"text": BASE64, "mimeType": "image/png"},
        {"data": BASE64 + "\n", "mimeType": "image/png"},
        {"data": "A" * 2001, "mimeType": "image/png"},
        {"data": "A" * 1999 + "B=" + "=" * 3, "mimeType": "image/png"},
        {"data": base64.b64encode(PIXELS[:90]).decode(), "mimeType": "image/png"},
        f"data:image/svg+xml,{'<svg/>' * 400}",
        f"see data:image/png;base64,{BASE64}",
        json.loads("[" * 300 + f'"data:image/png;base64,{BASE64}"' + "]" * 300),
    ],
    ids=[
        "no image",
        "a document",
        "text",
        "a line break",
        "cut off",
        "padded wrongly",
        "short",
        "no base64",
        "in a sentence",
        "deep",
    ],
)
def test_other_texts_stay(value: Any) -> None:
    assert taken_out(value) == (value, {})


def test_a_mark_says_what_it_stands_for() -> None:
    (short, _), (plain, _) = taken_out(f"data:image/png;base64,{BASE64}"), taken_out("text")
    assert content_of(short) == Content(NAME, 640, 480)
    assert content_of(plain) is content_of({"hw:content": NAME}) is None


def tool_span(**more: Any) -> dict[str, Any]:
    payload = {"step_id": 1, "source": "tool", "content": [{"type": "image", "data": BASE64, "mimeType": "image/png"}]}
    return span(TRACE, {**payload, **more})


def test_a_span_that_uses_the_mark_itself_is_stored_as_it_is() -> None:
    sent = tool_span(note={"hw:content": NAME, "before": "", "size": None})
    found = read_span(sent, TRACE)
    assert not found.contents
    assert in_json(unpack_payload(found.payload, None)) == in_json(sent)


async def test_a_rollout_of_screenshots_costs_each_of_them_once(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore
) -> None:
    """With the agent's own record of what it saw, and the gateway's beside it."""
    turns = episode(await kept(async_database, blobs, world, b"a", b"b"))
    sent = [step(turn) for turn in turns]
    for one, turn in zip(sent, turns, strict=True):
        one["attributes"]["hud.payload"] |= {"seen": [f"data:image/png;base64,{BASE64}"] * len(turn.media)}
        one["span_id"] = uuid.uuid4().hex[:16]
    found = [read_span(one, TRACE) for one in sent]
    spans = [
        with_pictures(one, {each.name: Picture(each.name, 64, 48) for turn in turns for each in turn.media})
        for one in found
    ]
    for each, turn in zip(spans, turns, strict=True):
        told = [NewSample(world.team_id, TRACE, each.turn)] if each.turn else []
        both = [NewSample(world.team_id, TRACE, turn), *told]
        await record(async_database, blobs, [TraceRecord(world.team_id, TRACE, both, [each])])
    read = await read_spans(async_database, blobs, world.team_id, TRACE)
    assert sorted(in_json(each.span) for each in read) == sorted(map(in_json, sent))
    with database.session() as session:
        assert NAME in set(session.scalars(select(TracePictureRow.name)))
    (rollout,) = (await read_rollouts(async_database, blobs, world.team_id, [TRACE])).values()
    assert all(same(sample.turn, turn) for sample, turn in zip(rollout.reported, turns, strict=True))
    assert not rollout.others
    short = await read_recorded(async_database, blobs, world.team_id, TRACE, arrays=False)
    assert short is not None
    assert all(BASE64 not in json.dumps(each.span) for each in short[1])


async def test_contents_of_spans_go_with_their_rollout(estate: Estate, async_database: AsyncDatabase) -> None:
    estate.step()
    one = read_span(tool_span(), TRACE)
    await record(async_database, estate.blobs, [TraceRecord(estate.world.team_id, TRACE, spans=[one])])
    collector = Collector(estate.database, estate.blobs, estate.checkpoints, RetentionPolicy())
    estate.age_files()
    assert collector.collect() == []
    with estate.database.session() as session:
        session.delete(session.get_one(TraceRow, (estate.world.team_id, TRACE)))
    assert [removal.name for removal in collector.collect()] == [NAME]


def test_token_arrays_are_not_searched() -> None:
    ids = np.arange(5).tolist()
    assert taken_out({"ids": ids})[0]["ids"] is ids
