"""Sampling over the Tinker API after pictures."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image

from server.sampling_sessions.calls import SampleCall
from server.sampling_sessions.results import Sampled
from tests.contract.test_pictures import (  # noqa: F401 - fixtures
    PLACEHOLDER,
    eyes,
    eyes_script,
    fresh_eyes,
)
from tests.contract.test_sampling_sessions import Client, context, opened  # noqa: F401 - fixtures
from tests.contract.test_training_pictures import inline, pointer, text
from tests.unit.server.pictures.drawn import encoded
from wire.extension import Media
from wire.sampling import PromptScores

SEEN, OTHER = (encoded(Image.new("RGB", (32, 32), colour)) for colour in ("teal", "navy"))


@pytest.fixture
async def client(team, context, eyes) -> AsyncIterator[Client]:  # noqa: F811
    url, found = context
    headers = {"X-API-Key": team.key}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        yield await opened(http, found.sampling_futures, base_model=eyes[0].slug)


def prompt(*chunks: dict[str, Any]) -> dict[str, Any]:
    return {"chunks": list(chunks)}


async def test_samplers_get_placeholders_and_names(client: Client, eyes_script):  # noqa: F811
    sent = prompt(text(1, 2), inline(SEEN), text(3), {**pointer(SEEN), "expected_tokens": None})
    await client.sample(prompt=sent, prompt_logprobs=True)
    (request, *_) = eyes_script.requests
    count = request.prompt_media[0].num_tokens
    assert request.prompt_token_ids == [1, 2, *[PLACEHOLDER] * count, 3, *[PLACEHOLDER] * count]
    assert [item.name for item in request.prompt_media] == [hashlib.sha256(SEEN).hexdigest()] * 2
    assert [item.start for item in request.prompt_media] == [2, 3 + count]


async def test_a_number_is_of_one_picture(client: Client):
    first = await client.post(5, prompt=prompt(text(1), inline(SEEN)))
    again = await client.post(5, prompt=prompt(text(1), pointer(SEEN)))
    assert again.json() == first.json(), "the same picture, however it comes"
    other = await client.post(5, prompt=prompt(text(1), inline(OTHER)))
    assert (other.status_code, "seq_id" in other.text) == (422, True)


@pytest.mark.parametrize(
    ("chunk", "sentence"),
    [
        (inline(b"<svg/>"), "prompt: chunk 1: the picture is no picture that is read here"),
        (inline(SEEN, expected_tokens=999), "prompt: chunk 1 expects 999 tokens"),
        (pointer(b"nobody's"), "prompt: chunk 1: no picture sha256:"),
        ({"type": "dmel", "dmel": ""}, "prompt: chunk 1 has the type 'dmel'"),
    ],
)
async def test_what_is_wrong_with_a_picture_fails_the_future(client: Client, chunk, sentence):
    failed = await client.failure(prompt=prompt(text(1), chunk, text(2)))
    assert failed.category == "user"
    assert failed.message.startswith(sentence)


async def test_the_sampling_session_of_nobody_is_not_found_before_anything_is_decoded(client: Client):
    reply = await client.post(prompt=prompt(inline(SEEN)), sampling_session_id="nobody:sample:0")
    assert reply.status_code == 404


def call(*media: Media) -> SampleCall:
    return SampleCall([1, 9, 9, 2], 1, 5, 1.0, 0, 1.0, (), (), False, 7, False, wants_prompt_logprobs=True, media=media)


def test_a_call_is_kept_with_its_pictures():
    one, other = (Media(1, 2, hashlib.sha256(data).digest(), 32, 16) for data in (SEEN, OTHER))
    for kept in (call(one), call()):
        assert SampleCall.decoded(kept.encoded()) == kept
    assert call(one).is_like(call(one))
    assert not call(one).is_like(call(other)), "behind equal ids"
    assert not call(one).is_like(call())
    assert b"media" not in call().encoded()


def test_tokens_of_pictures_have_no_logprob():
    scores = PromptScores(logprobs=[None, None, -0.5])
    logprobs = Sampled.of(call(Media(1, 2, bytes(32), 32, 16)), [], scores).prompt_logprobs_P
    assert logprobs is not None
    assert [None if value != value else value for value in logprobs.tolist()] == [None, None, None, -0.5]
