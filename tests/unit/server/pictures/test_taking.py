"""Pictures leave a request as names, each decoded and stored once."""

from __future__ import annotations

import asyncio
import base64
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
from server.pictures.taking import SentPicture, take_each
from server.principals.quotas import QuotaFull
from server.process.settings import PictureSettings
from server.protocols.openai.chat import chat_prompt
from server.protocols.openai.schemas import ChatRequest
from server.sampling.picturing import with_pictures
from store.database import AsyncDatabase
from store.tables import TeamRow
from tests.unit.server.pictures.drawn import encoded, gradient, opened
from tests.unit.server.pictures.scene import data_url, pictures_of, target_of
from wire.errors import Gone, HeadwayError, InvalidRequest, NotFound, TooLarge, Unavailable
from wire.pictures import PictureLimits

TEAM, OTHERS = uuid.uuid4(), uuid.uuid4()
RED, BLUE = (encoded(Image.new("RGB", (8, 6), colour)) for colour in ("red", "blue"))


@pytest_asyncio.fixture(scope="module")
async def decoder() -> AsyncGenerator[PictureDecoder]:
    decoder = PictureDecoder(PictureLimits())
    yield decoder
    await decoder.close()


@pytest_asyncio.fixture
async def pictures(decoder: PictureDecoder, async_database: AsyncDatabase, tmp_path: Path) -> Pictures:
    async with async_database.session() as session:
        session.add_all([TeamRow(id=TEAM, name="reds"), TeamRow(id=OTHERS, name="blues")])
    return pictures_of(decoder, async_database, tmp_path)


def image(url: Any, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def asked(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Look."}, {"role": "user", "content": list(parts)}]


async def take(pictures: Pictures, team_id: uuid.UUID, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As a chat's are."""
    chat = chat_prompt(ChatRequest(model="m", messages=messages))
    return (await with_pictures(pictures, target_of(team_id), chat)).messages


def pointer(data: bytes, width: int = 8, height: int = 6) -> dict[str, Any]:
    return {"type": "picture", "name": hashlib.sha256(data).hexdigest(), "width": width, "height": height}


async def test_parts_become_pointers_and_all_else_stays(pictures: Pictures):
    text = {"type": "text", "text": "and"}
    messages = asked(image(data_url(RED)), text, image(data_url(BLUE)), image(data_url(RED)))
    taken = await take(pictures, TEAM, messages)
    assert taken[0] == messages[0]
    assert taken[1]["content"] == [pointer(RED), text, pointer(BLUE), pointer(RED)]
    assert messages[1]["content"][0]["type"] == "image_url", "what was sent is not changed"
    assert await read(pictures, TEAM, taken[1]["content"][0]["name"]) == RED
    assert len([*pictures.blobs.stored()]) == 2


async def test_whatever_the_type_says_bytes_are_what_they_are(pictures: Pictures):
    jpeg = encoded(gradient(), "JPEG")
    urls = [data_url(jpeg, kind) for kind in ("image/png", "text/html", "image/jpeg;charset=utf-8", "")]
    parts = (await take(pictures, TEAM, asked(*map(image, urls))))[1]["content"]
    assert len({part["name"] for part in parts}) == 1
    assert opened(await read(pictures, TEAM, parts[0]["name"])).size == (40, 24)


async def test_what_came_before_is_decoded_no_more(pictures: Pictures, monkeypatch: pytest.MonkeyPatch):
    first = await take(pictures, TEAM, asked(image(data_url(RED))))
    monkeypatch.setattr(pictures.decoder, "_decode", None)
    assert await take(pictures, TEAM, asked(image(data_url(RED)))) == first


async def test_a_team_that_brings_it_anew_has_it_anew(pictures: Pictures):
    """Neither the memory of one process nor another team's row stands for a team's own."""
    (taken,) = await take_each(pictures, OTHERS, [SentPicture("a", RED)])
    with pytest.raises(NotFound):
        await read(pictures, TEAM, taken.name)
    with pytest.raises(NotFound, match=r"messages\[1\].content\[0\]: no picture sha256:"):
        await take(pictures, TEAM, asked(image(taken.location)))
    pictures.blobs.remove_older(list(pictures.blobs.stored()), 0.0)  # as a collection does, once nothing names it
    assert await take_each(pictures, TEAM, [SentPicture("a", RED)]) == [taken]
    assert await read(pictures, TEAM, taken.name) == RED


async def test_a_pointer_is_a_picture_that_the_team_sent(pictures: Pictures):
    (taken,) = await take_each(pictures, TEAM, [SentPicture("a", RED)])
    assert (await take(pictures, TEAM, asked(image(taken.location))))[1]["content"] == [pointer(RED)]


async def test_bytes_that_are_gone_are_gone(pictures: Pictures):
    (taken,) = await take_each(pictures, TEAM, [SentPicture("a", RED)])
    pictures.blobs.remove_older(list(pictures.blobs.stored()), 0.0)
    with pytest.raises(Gone, match=taken.name):
        await read(pictures, TEAM, taken.name)


async def test_bytes_that_were_lost_are_there_again_once_they_are_sent_again(pictures: Pictures):
    (taken,) = await take_each(pictures, TEAM, [SentPicture("a", RED)])
    pictures.blobs.remove_older(list(pictures.blobs.stored()), 0.0)
    assert await take_each(pictures, TEAM, [SentPicture("a", RED), SentPicture("b", RED)]) == [taken, taken]
    assert await read(pictures, TEAM, taken.name) == RED


async def test_low_detail_is_smaller(pictures: Pictures):
    large = data_url(encoded(gradient(1280, 800)))
    parts = [image(large, detail=detail) for detail in ("low", "high", "auto", None)] + [image(large)]
    taken = (await take(pictures, TEAM, asked(*parts)))[1]["content"]
    assert [(part["width"], part["height"]) for part in taken] == [(512, 320)] + [(1280, 800)] * 4


REFUSED = [
    (image("ftp://host/a.png"), InvalidRequest, "data URL"),
    (image("https://example.com/a.png"), InvalidRequest, "not fetched by URL here; send a data URL"),
    (image("/etc/passwd"), InvalidRequest, "data URL"),
    (image("file:///etc/passwd"), InvalidRequest, "data URL"),
    (image("sha256:xyz"), InvalidRequest, "data URL"),
    (image("data:image/png,abc"), InvalidRequest, "base64"),
    (image("data:"), InvalidRequest, "base64"),
    (image("data:image/png;base64"), InvalidRequest, "base64"),
    (image("data:image/png;base64,"), InvalidRequest, "empty"),
    (image("data:image/png;base64,%%%"), InvalidRequest, "not base64"),
    (image("data:image/png;base64,QQ"), InvalidRequest, "not base64"),
    (image("data:image/png;base64,é"), InvalidRequest, "not base64"),
    (image(data_url(b"<svg/>", "image/svg+xml")), InvalidRequest, "no picture that is read here"),
    (image(data_url(RED[:-9])), InvalidRequest, "broken"),
]


@pytest.mark.parametrize(("part", "error", "sentence"), REFUSED)
async def test_refusals_name_the_part(part: Any, error: type[HeadwayError], sentence: str, pictures: Pictures):
    with pytest.raises(HeadwayError, match=sentence) as caught:
        await take(pictures, TEAM, asked(image(data_url(BLUE)), part))
    assert type(caught.value) is error
    assert str(caught.value).startswith("messages[1].content[1]")
    assert caught.value.param == "messages[1].content[1]"


LIMITS = PictureLimits(per_request=3, bytes_each=200, bytes_in_all=240)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([image(data_url(RED))] * 4, "4 pictures; at most 3"),
        ([image(data_url(bytes(201)))], "larger than 200 bytes"),
        ([image(data_url(bytes(100_000)))], "larger than 200 bytes"),
        ([image(data_url(bytes(120)))] * 3, "more than 240 bytes"),
    ],
)
async def test_more_than_is_taken_at_once_is_too_large(
    parts: list[Any], sentence: str, decoder: PictureDecoder, async_database: AsyncDatabase, tmp_path: Path
):
    pictures = pictures_of(decoder, async_database, tmp_path, PictureSettings(limits=LIMITS))
    with pytest.raises(TooLarge, match=sentence):
        await take(pictures, TEAM, asked(*parts))


async def test_line_ends_in_base64_are_passed_over(pictures: Pictures):
    wrapped = "data:image/png;base64," + base64.encodebytes(encoded(gradient())).decode()
    (taken,) = await take_each(pictures, TEAM, [SentPicture("a", wrapped)])
    assert taken.name == hashlib.sha256(encoded(gradient())).hexdigest()


async def test_requests_with_the_same_picture_at_once_have_the_same_picture(pictures: Pictures):
    taken = await asyncio.gather(*(take(pictures, TEAM, asked(image(data_url(RED)))) for _ in range(8)))
    assert all(one[1]["content"] == [pointer(RED)] for one in taken)


async def test_a_disk_that_is_full_is_a_refusal_that_passes(pictures: Pictures, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("store.blob_stores.file.sync_file", _full)
    with pytest.raises(Unavailable, match="could not be stored"):
        await take_each(pictures, TEAM, [SentPicture("a", RED)])
    monkeypatch.undo()
    assert len(await take_each(pictures, TEAM, [SentPicture("a", RED)])) == 1


def _full(*_: Any):
    raise OSError(28, "No space left on device")


async def test_pictures_are_counted(pictures: Pictures):
    await take(pictures, TEAM, asked(image(data_url(RED)), image(data_url(RED))))
    with pytest.raises(InvalidRequest):
        await take(pictures, TEAM, asked(image(data_url(b"x"))))
    assert _counts(pictures) == {"decoded": 1, "repeated": 1, "refused": 1}


def _counts(pictures: Pictures) -> dict[str, float]:
    families = {family.name: family for family in pictures.metrics.registry.collect()}
    samples = families["headway_pictures"].samples
    return {one.labels["outcome"]: one.value for one in samples if one.name == "headway_pictures_total"}


async def test_a_full_team_sends_nothing_new(pictures: Pictures, async_database: AsyncDatabase):
    """What it has, it may show again; others are not concerned."""
    (known,) = await take_each(pictures, TEAM, [SentPicture("first", RED)])
    async with async_database.session() as session:
        (await session.get_one(TeamRow, TEAM)).max_storage_bytes = len(RED)
    again = [SentPicture("first", RED), SentPicture("second", f"sha256:{known.name}")]
    assert await take_each(pictures, TEAM, again) == [known, known]
    with pytest.raises(QuotaFull, match=f"take {len(RED)} of its {len(RED)} bytes"):
        await take_each(pictures, TEAM, [*again, SentPicture("third", BLUE)])
    assert len(await take_each(pictures, OTHERS, [SentPicture("first", BLUE)])) == 1
