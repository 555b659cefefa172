"""A sampler asks for the pictures that it lacks, before it does anything else, and keeps them for its requests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from hashlib import sha256
from typing import Any

import httpx
import pytest
import pytest_asyncio

from sampler.app import create_app
from sampler.backends.base import NO_PICTURES, SamplerInfo
from tests.ports.scripted_backend import END, SamplerScript, ScriptedBackend
from tests.vision.families import drawn, png_of
from wire.picture_rule import PictureRule
from wire.process.tokens import Tokens
from wire.sampling import GenerateRequest, PromptScores, ScoreRequest

RULE = PictureRule("patches", 9, 8, 2, 256, 16384, 0, 3, False, "<image>", "", "", "pillow-0")
PNG = png_of(drawn(1))
NAME = sha256(PNG).hexdigest()
SHOWN = {"type": "picture", "name": NAME, "width": 64, "height": 48}
CHAT = {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, SHOWN]}]}
ITEM = {"start": 7, "num_tokens": 12, "name": NAME, "width": 64, "height": 48}
PARAMS = {"max_tokens": 4}
IDS = [*map(ord, "<user>?"), *[9] * 12]


class Backend(ScriptedBackend):
    """It writes down which pictures it was given."""

    def __init__(self, script: SamplerScript, rule: PictureRule | None) -> None:
        info = SamplerInfo(vocab_size=256, context_length=128, eos_ids=(END,), pictures=rule)
        super().__init__(script, info, holds_all=True)
        self.given = list[dict[str, bytes]]()

    async def generate(self, request: GenerateRequest, pictures: Mapping[str, bytes] = NO_PICTURES) -> Any:
        self.given.append(dict(pictures))
        async with aclosing(super().generate(request, pictures)) as events:
            async for event in events:
                yield event

    async def score(self, request: ScoreRequest, pictures: Mapping[str, bytes] = NO_PICTURES) -> PromptScores:
        self.given.append(dict(pictures))
        return await super().score(request, pictures)


@pytest.fixture
def script() -> SamplerScript:
    return SamplerScript()


@pytest.fixture
def backend(script: SamplerScript) -> Backend:
    return Backend(script, RULE)


@pytest_asyncio.fixture
async def client(backend: Backend) -> AsyncIterator[httpx.AsyncClient]:
    async with opened(backend) as client:
        yield client


def opened(backend: Backend) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=create_app(backend, Tokens("secret")))
    return httpx.AsyncClient(transport=transport, base_url="http://sampler", headers={"Authorization": "Bearer secret"})


async def post_picture(client: httpx.AsyncClient, name: str = NAME, png: bytes = PNG) -> httpx.Response:
    return await client.post(f"/pictures/{name}", content=png)


REQUESTS = {
    "a chat": ("/generate", {"adapter": "a", "chat": CHAT, "params": PARAMS}),
    "a continued chat": (
        "/generate",
        {
            "adapter": "a",
            "chat": {
                "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "36"}],
                "continued_ids": IDS,
                "continued_messages": 2,
                "continued_media": [ITEM],
            },
            "params": PARAMS,
        },
    ),
    "ids": ("/generate", {"adapter": "a", "prompt_token_ids": IDS, "prompt_media": [ITEM], "params": PARAMS}),
    "a score": ("/score", {"adapter": "a", "prompt_token_ids": IDS, "prompt_media": [ITEM]}),
}


@pytest.mark.parametrize("kind", REQUESTS)
async def test_missing_pictures_are_named_before_all_work_and_given_once(client, backend, script, kind):
    path, body = REQUESTS[kind]
    answer = await client.post(path, json=body)
    assert answer.status_code == 424
    assert (answer.json()["code"], answer.json()["names"]) == ("pictures_missing", [NAME])
    assert script.renders == []
    assert backend.given == []
    assert (await post_picture(client)).status_code == 204
    for _ in range(2):
        assert (await client.post(path, json=body)).status_code == 200
    assert backend.given == [{NAME: PNG}] * 2


async def test_the_first_event_has_the_media_of_a_chat_and_no_other(client):
    await post_picture(client)
    answer = await client.post("/generate", json=REQUESTS["a chat"][1])
    events = [json.loads(line) for line in answer.text.splitlines()]
    assert len(events) > 1
    assert events[0]["prompt_media"] == [ITEM]
    assert events[0]["prompt_token_ids"][7:19] == [9] * 12
    assert all("prompt_media" not in event for event in events[1:])


async def test_a_chat_is_rendered_without_the_bytes(client):
    answer = await client.post("/render", json=CHAT)
    assert answer.status_code == 200
    assert answer.json()["media"] == [ITEM]


@pytest.mark.parametrize(
    "change",
    [
        {"start": 6},
        {"num_tokens": 11},
        {"width": 640},
        {"width": 10**400, "height": 10**400},
        {"start": 100},
        {"start": -1},
        {"name": "0"},
    ],
)
async def test_media_that_do_not_fit_the_ids_are_refused(client, change):
    await post_picture(client)
    body = {**REQUESTS["ids"][1], "prompt_media": [{**ITEM, **change}]}
    answer = await client.post("/generate", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_only_a_picture_of_that_name_is_taken(client):
    assert (await post_picture(client, "0" * 64)).status_code == 422
    assert (await post_picture(client, png=PNG[:-1])).status_code == 422
    assert (await client.post("/generate", json=REQUESTS["ids"][1])).status_code == 424


async def test_a_picture_is_not_taken_without_the_token(client):
    answer = await client.post(f"/pictures/{NAME}", content=PNG, headers={"Authorization": "Bearer guess"})
    assert answer.status_code == 401


async def test_a_picture_has_its_own_bound(client):
    """A chat's body may be no longer than what fits the context; a screenshot of noise is."""
    noise = png_of(drawn(2, 2000, 1600))
    assert len(noise) > 9 * 1024**2
    assert (await post_picture(client, sha256(noise).hexdigest(), noise)).status_code == 204
    answer = await client.post(f"/pictures/{NAME}", content=PNG, headers={"Content-Length": str(10**9)})
    assert answer.status_code == 413


async def test_a_sampler_says_how_it_takes_pictures(client):
    answer = await client.get("/healthz")
    assert PictureRule.from_json(answer.json()["pictures"]) == RULE


async def test_a_base_that_takes_text_alone_refuses_pictures_by_name(script):
    async with opened(Backend(script, None)) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        answers = [await client.post(path, json=body) for path, body in REQUESTS.values()]
        for refused in (*answers, await post_picture(client)):
            assert (refused.status_code, refused.json()["message"]) == (422, "this base takes no pictures")
        answer = await client.post("/render", json={"messages": [{"role": "user", "content": "?"}]})
        assert answer.json().keys() == {"token_ids"}
