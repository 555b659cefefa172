"""A chat's pictures: stored for the target's team, named in what is rendered, and in what is recorded."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from server.pictures.collaborators import Pictures
from server.pictures.decoder import PictureDecoder
from server.pictures.reading import read
from server.protocols.openai.chat import chat_prompt
from server.protocols.openai.schemas import ChatRequest
from server.sampling.picturing import with_pictures, without_picture_bytes
from server.sampling.requests import Chat, Rollout
from store.database import AsyncDatabase
from store.tables import TeamRow
from tests.unit.server.pictures.drawn import encoded
from tests.unit.server.pictures.scene import data_url, pictures_of, target_of
from wire.errors import InvalidRequest, NotFound
from wire.pictures import PictureLimits

TEAM = uuid.uuid4()
RED, BLUE = (encoded(Image.new("RGB", (8, 6), colour)) for colour in ("red", "blue"))


@pytest_asyncio.fixture(scope="module")
async def decoder() -> AsyncGenerator[PictureDecoder]:
    decoder = PictureDecoder(PictureLimits())
    yield decoder
    await decoder.close()


@pytest_asyncio.fixture
async def pictures(decoder: PictureDecoder, async_database: AsyncDatabase, tmp_path: Path) -> Pictures:
    async with async_database.session() as session:
        session.add(TeamRow(id=TEAM, name="reds"))
    return pictures_of(decoder, async_database, tmp_path)


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def named(png: bytes) -> dict[str, Any]:
    return {"type": "picture", "name": hashlib.sha256(png).hexdigest(), "width": 8, "height": 6}


def chat(*messages: dict[str, Any]) -> Chat:
    return chat_prompt(ChatRequest(model="m", messages=list(messages)))


TEXT = {"type": "text", "text": "?", "annotations": []}
ASKED = {"role": "user", "name": "me", "content": [image(data_url(RED)), TEXT, image(data_url(BLUE))]}


async def test_samplers_and_the_record_get_names(pictures: Pictures):
    system = {"role": "developer", "content": "Look."}
    taken = await with_pictures(pictures, target_of(TEAM), chat(system, ASKED))
    shown = [named(RED), {"type": "text", "text": "?"}, named(BLUE)]
    assert taken.render.messages == [{**system, "role": "system"}, {**ASKED, "content": shown}]
    assert taken.messages == [system, {**ASKED, "content": [named(RED), TEXT, named(BLUE)]}], "else as it was sent"
    assert await read(pictures, TEAM, named(BLUE)["name"]) == BLUE


async def test_a_picture_that_the_team_sent_before_goes_by_its_name(pictures: Pictures):
    await with_pictures(pictures, target_of(TEAM), chat(ASKED))
    by_name = chat({"role": "user", "content": [image(f"sha256:{named(RED)['name']}")]})
    assert (await with_pictures(pictures, target_of(TEAM), by_name)).messages[0]["content"] == [named(RED)]
    with pytest.raises(NotFound, match=r"^messages\[0\].content\[0\]: no picture sha256:"):
        await with_pictures(pictures, target_of(uuid.uuid4()), by_name)


async def test_texts_alone_are_for_every_base_and_pictures_are_not(pictures: Pictures):
    text = chat({"role": "user", "content": [TEXT]})
    blind = target_of(TEAM, reads_pictures=False)
    assert await with_pictures(pictures, blind, text) is text
    with pytest.raises(InvalidRequest, match="'org/Base', the base of 'm', reads texts alone") as refused:
        await with_pictures(pictures, blind, chat({"role": "user", "content": "a"}, ASKED))
    assert refused.value.param == "messages[1].content[0]"


def test_what_is_recorded_of_a_request_is_as_large_as_its_texts():
    rollout, large = Rollout(uuid.uuid4(), 10_000), image("data:image/png;base64," + 9_000 * "A")
    assert without_picture_bytes(None, chat(ASKED)) is None
    assert without_picture_bytes(rollout, chat({"role": "user", "content": "?"})) is rollout
    left = without_picture_bytes(rollout, chat({"role": "user", "content": [large]}))
    assert left is not None
    assert left.num_bytes == 978
