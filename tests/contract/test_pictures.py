"""Pictures in chats, responses and messages: stored once, named from then on, handed to the sampler that lacks them."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from fastapi import Request
from PIL import Image
from sqlalchemy import text

from sampler.app import create_app as create_sampler_app
from sampler.backends.base import SamplerInfo
from server.protocols.anthropic.schemas import AnyMessages, PromptRequest
from server.protocols.openai.responses.schemas import AnyResponse
from server.protocols.openai.schemas import ChatRequest
from store.database import AsyncDatabase
from store.tables import ModelRow
from tests.contract.conftest import CONTEXT, VOCABULARY, Team, serving
from tests.contract.stand_ins import BreaksOff, register_sampler, register_trainer
from tests.ports.scripted_backend import END, SamplerScript, ScriptedBackend
from tests.unit.server.pictures.drawn import encoded
from wire.picture_rule import PictureRule
from wire.process.tokens import Tokens
from wire.sampling import RenderRequest

PLACEHOLDER = 127
RULE = PictureRule(
    kind="patches",
    placeholder_id=PLACEHOLDER,
    patch=8,
    merge=2,
    min_pixels=256,
    max_pixels=64 * 256,
    tokens=0,
    axes=3,
    two_way=False,
    template_text="<picture>",
    text_before="",
    text_after="",
    preprocessing="none",
)
RED, BLUE = (encoded(Image.new("RGB", (32, 16), colour)) for colour in ("red", "blue"))
RUN = [PLACEHOLDER] * 2
INFO = {
    "vocab_size": VOCABULARY,
    "context_length": CONTEXT,
    "architecture": "T",
    "dtype": "d",
    "num_parameters": 1,
    "pictures": RULE.to_json(),
}


class Asked:
    """Paths of what a sampler was asked for."""

    def __init__(self, app: Any) -> None:
        self.paths = list[str]()
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.paths.append(scope["path"])
        await self._app(scope, receive, send)

    def took(self) -> list[str]:
        """Since the last time."""
        found = [path for path in self.paths if path != "/healthz"]
        self.paths.clear()
        return found


@pytest.fixture(scope="module")
def eyes_script() -> SamplerScript:
    return SamplerScript()


@pytest.fixture(scope="module")
async def eyes(
    database: AsyncDatabase, base: ModelRow, eyes_script: SamplerScript
) -> AsyncIterator[tuple[ModelRow, Asked]]:
    """A base that reads pictures; its rows are kept alive beside those of the other one."""
    slug = f"org/Eyes-{uuid.uuid4().hex[:8]}"
    async with database.session() as session:
        row = ModelRow(slug=slug, name=slug, weights="/nowhere", info=INFO)
        session.add(row)
    await register_trainer(database, row.id)
    backend = ScriptedBackend(eyes_script, SamplerInfo(VOCABULARY, CONTEXT, (END,), pictures=RULE), holds_all=True)
    asked = Asked(BreaksOff(create_sampler_app(backend, Tokens("token"))))
    async with serving(asked) as url:
        sampler_id = await register_sampler(database, row.id, url)
        yield row, asked
    async with database.session() as session:
        await session.execute(text("update samplers set stopped_at = now() where id = :id"), {"id": sampler_id})
        (await session.get_one(ModelRow, row.id)).info = {**INFO, "pictures": None}


@pytest.fixture(autouse=True)
def fresh_eyes(eyes_script: SamplerScript) -> None:
    eyes_script.__init__()


@pytest.fixture(scope="module")
async def seeing(standing_team: Team, eyes: tuple[ModelRow, Asked]) -> dict[str, Any]:
    """A fork of it."""
    return await standing_team.fork(str(eyes[0].id))


@pytest.fixture
def asked_of_sampler(eyes: tuple[ModelRow, Asked]) -> Asked:
    eyes[1].took()
    return eyes[1]


def fresh(seed: int) -> bytes:
    """A picture that nobody has sent."""
    return encoded(Image.new("RGB", (32, 16), (seed, 7, 7)))


BYTES = base64.b64encode(RED).decode()[40:80]


def url_of(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def name_of(png: bytes) -> str:
    return hashlib.sha256(png).hexdigest()


def part(png: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url_of(png)}}


def named(png: bytes) -> dict[str, Any]:
    return {"type": "picture", "name": name_of(png), "width": 32, "height": 16}


def said(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def chat(model: dict[str, Any], *parts: Any, **more: Any) -> dict[str, Any]:
    return {"model": model["model_name"], "messages": [{"role": "user", "content": list(parts)}], **more}


def ids(*pieces: str | list[int]) -> list[int]:
    return [token for piece in pieces for token in (map(ord, piece) if isinstance(piece, str) else piece)]


async def test_a_prompt_has_a_run_for_each_picture_and_its_chunks_name_them(standing_team, seeing, asked_of_sampler):
    body = chat(seeing, part(fresh(1)), said("or"), part(fresh(2)), return_token_ids=True, logprobs=True)
    reply = (await standing_team.http.post("/chat/completions", json=body)).json()
    prompt = ids("<user>", RUN, "or", RUN, "<assistant>")
    (choice,) = reply["choices"]
    assert choice["prompt_token_ids"] == reply["prompt_token_ids"] == prompt
    assert reply["usage"]["prompt_tokens"] == len(prompt)
    pointers = [
        {
            "type": "image_asset_pointer",
            "location": f"sha256:{name_of(fresh(i))}",
            "format": "png",
            "expected_tokens": 2,
        }
        for i in (1, 2)
    ]
    texts = [{"type": "encoded_text", "tokens": ids(one)} for one in ("<user>", "or", "<assistant>")]
    assert choice["prompt_chunks"] == [texts[0], pointers[0], texts[1], pointers[1], texts[2]]
    handed = [f"/pictures/{name}" for name in sorted(name_of(fresh(i)) for i in (1, 2))]
    assert asked_of_sampler.took() == ["/generate", *handed, "/generate"]
    again = await standing_team.http.post("/chat/completions", json=body)
    assert again.json()["choices"][0]["prompt_chunks"] == choice["prompt_chunks"]
    assert asked_of_sampler.took() == ["/generate"], "what a sampler has is not sent to it twice"


async def test_a_stream_says_the_same_and_every_choice_does(standing_team, seeing, eyes_script):
    body = chat(seeing, part(RED), said("?"), return_token_ids=True)
    (whole,) = (await standing_team.http.post("/chat/completions", json=body)).json()["choices"]
    several = (await standing_team.http.post("/chat/completions", json={**body, "n": 3})).json()["choices"]
    assert [choice["prompt_chunks"] for choice in several] == [whole["prompt_chunks"]] * 3
    assert [request.prompt_media for request in eyes_script.requests[1:]] == [eyes_script.requests[0].prompt_media] * 3
    assert len(eyes_script.requests[0].prompt_media) == 1
    reply = await standing_team.http.post("/chat/completions", json={**body, "stream": True})
    first = json.loads(reply.text.split("\n")[0].removeprefix("data: "))
    assert first["choices"][0]["prompt_chunks"] == whole["prompt_chunks"]
    assert first["prompt_token_ids"] == whole["prompt_token_ids"]


async def test_without_pictures_or_unasked_there_are_no_chunks(standing_team, seeing):
    for body in (chat(seeing, said("hi"), return_token_ids=True), chat(seeing, part(RED))):
        (choice,) = (await standing_team.http.post("/chat/completions", json=body)).json()["choices"]
        assert "prompt_chunks" not in choice


async def test_a_tools_result_may_be_a_picture_in_every_protocol(origin, standing_team, seeing, eyes_script):
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [said("seen"), part(RED)]},
    ]
    reply = await standing_team.http.post("/chat/completions", json={"model": seeing["id"], "messages": turns})
    assert reply.status_code == 200, reply.text
    async with openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key=standing_team.key, max_retries=0) as client:
        called = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
        output: list[Any] = [
            {"type": "input_text", "text": "seen"},
            {"type": "input_image", "image_url": url_of(RED), "detail": "auto"},
        ]
        response = await client.responses.create(
            model=seeing["model_name"],
            input=[
                {"role": "user", "content": "?"},
                called,  # pyright: ignore[reportArgumentType]
                {"type": "function_call_output", "call_id": "c", "output": output},
            ],
        )
    async with anthropic.AsyncAnthropic(base_url=origin, api_key=standing_team.key, max_retries=0) as client:
        source: Any = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(RED).decode()}
        seen: list[Any] = [said("seen"), {"type": "image", "source": source}]
        asked: list[Any] = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": seen}]},
        ]
        message = await client.messages.create(model=seeing["model_name"], max_tokens=60, messages=asked)
        count = await client.messages.count_tokens(model=seeing["model_name"], messages=asked)
    shown = [render.messages[-1] for render in eyes_script.renders]
    assert shown == [{"role": "tool", "tool_call_id": "c", "content": [said("seen"), named(RED)]}] * 4
    prompt = ids("<user>?<assistant><tool>seen", RUN, "<assistant>")
    assert reply.json()["usage"]["prompt_tokens"] == len(prompt)
    assert response.usage is not None
    assert [response.usage.input_tokens, message.usage.input_tokens, count.input_tokens] == [len(prompt)] * 3


async def test_equal_ids_behind_another_picture_are_another_prompt(standing_team, seeing, eyes_script):
    eyes_script.answer = None
    bodies = [chat(seeing, part(png), said("?"), return_token_ids=True, seed=5, max_tokens=40) for png in (RED, BLUE)]
    replies = [(await standing_team.http.post("/chat/completions", json=body)).json() for body in bodies]
    (one,), (other,) = [reply["choices"] for reply in replies]
    assert one["prompt_token_ids"] == other["prompt_token_ids"]
    assert one["prompt_chunks"] != other["prompt_chunks"]


BROKEN = "data:image/png;base64," + base64.b64encode(RED[:60]).decode()
REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "cut off": ({"url": BROKEN}, 422, "messages[0].content[1]: the picture is broken or cut off"),
    "no base64": ({"url": "data:image/png;base64,!!"}, 422, "messages[0].content[1] is not base64"),
    "a data URL of text": ({"url": "data:,hi"}, 422, "messages[0].content[1]: a data URL must be"),
    "no picture": ({"url": "data:image/png;base64,AAAA"}, 422, "messages[0].content[1]: the picture is no picture"),
    "elsewhere": ({"url": "https://example.com/a.png"}, 422, "messages[0].content[1]"),
    "a file": ({"url": "file:///etc/passwd"}, 422, "must be a data URL"),
    "unknown": ({"url": f"sha256:{'0' * 64}"}, 404, "messages[0].content[1]: no picture sha256:0"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_no_picture_is_refused_by_its_place(case, standing_team, seeing, eyes_script):
    image, status, sentence = REFUSED[case]
    body = chat(seeing, said("?"), {"type": "image_url", "image_url": image})
    reply = await standing_team.http.post("/chat/completions", json=body)
    assert reply.status_code == status, reply.text
    assert reply.json()["detail"].startswith(sentence) or sentence in reply.json()["detail"]
    assert reply.json()["error"]["param"] == "messages[0].content[1]"
    assert eyes_script.renders == []


async def test_too_many_pictures_are_too_large(standing_team, seeing):
    reply = await standing_team.http.post("/chat/completions", json=chat(seeing, *[part(RED)] * 65))
    assert reply.status_code == 413, reply.text
    assert "65 pictures; at most 64" in reply.json()["detail"]


async def test_a_name_is_good_for_the_team_that_sent_the_picture_alone(standing_team, team, eyes, seeing):
    mine = await team.fork(str(eyes[0].id))
    pointer = {"type": "image_url", "image_url": {"url": f"sha256:{name_of(RED)}"}}
    assert (await standing_team.http.post("/chat/completions", json=chat(seeing, part(RED)))).status_code == 200
    assert (await standing_team.http.post("/chat/completions", json=chat(seeing, pointer))).status_code == 200
    theirs = await team.http.post("/chat/completions", json=chat(mine, pointer))
    assert theirs.status_code == 404, theirs.text


ANSWERED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": [part(RED)]}]},
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": url_of(RED)}]}],
    },
    "/v1/messages": {
        "max_tokens": 500,
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image",
                        "source": {
                            "type": "base64",
                            "media_type": "image/png",
                            "data": base64.b64encode(RED).decode(),
                        },
                    }
                ],
            }
        ],
    },
}


@pytest.mark.parametrize("path", ANSWERED)
async def test_bytes_of_pictures_do_not_stay_while_it_is_sampled(path, standing_team, seeing, eyes_script):
    eyes_script.endless = True
    body = {"model": seeing["model_name"], "stream": True, **ANSWERED[path]}
    async with standing_team.http.stream("POST", path, json=body) as reply:
        await anext(reply.aiter_lines())
        gc.collect()
        found = gc.get_objects()
        requests = [one for one in found if issubclass(type(one), Request) and one.scope.get("path") == path]
        parsed = [one for one in found if issubclass(type(one), (AnyMessages, AnyResponse, PromptRequest, ChatRequest))]
        asked = [one for one in found if issubclass(type(one), RenderRequest) and one.messages]
        assert requests
        assert all(getattr(one, "_body", b"") == b"" for one in requests)
        assert not [one for one in (*parsed, *asked) if BYTES in repr(one)]


async def test_a_body_with_pictures_may_be_larger_than_one_of_text(standing_team, seeing):
    large = encoded(Image.effect_noise((300, 300), 90).convert("RGB"))
    assert len(large) > 100_000, "the bound of these tests for text"
    reply = await standing_team.http.post("/chat/completions", json=chat(seeing, part(large)))
    assert reply.status_code == 200, reply.text


async def conversation(team: Team, trace: str) -> dict[str, Any]:
    reply = await team.http.get(f"/v2/traces/{uuid.UUID(trace)}")
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_a_turn_is_on_record_with_names_in_place_of_bytes(standing_team, seeing):
    trace = uuid.uuid4().hex
    body = chat(seeing, part(RED), said("?"))
    (await standing_team.http.post("/chat/completions", json=body, headers={"Trace-Id": trace})).raise_for_status()
    (turn,) = (await conversation(standing_team, trace))["turns"]
    assert turn["messages"] == [{"role": "user", "content": [named(RED), said("?")]}]
    assert turn["prompt_token_ids"] == ids("<user>", RUN, "?<assistant>")


async def test_a_conversation_goes_on_from_its_ids_and_pictures(origin, standing_team, seeing, eyes_script):
    """Anthropic's clients send no ids: the recorded turn has them, with its pictures."""
    trace, source = uuid.uuid4().hex, {"type": "base64", "media_type": "image/png"}

    def shown(png: bytes) -> dict[str, Any]:
        return {"type": "image", "source": {**source, "data": base64.b64encode(png).decode()}}

    async with anthropic.AsyncAnthropic(
        base_url=origin, api_key=standing_team.key, max_retries=0, default_headers={"Trace-Id": trace}
    ) as client:
        asked: list[Any] = [{"role": "user", "content": [shown(RED), said("?")]}]
        first = await client.messages.create(model=seeing["model_name"], max_tokens=60, messages=asked)
        asked += [first.to_param(), {"role": "user", "content": [shown(BLUE), said("and?")]}]
        await client.messages.create(model=seeing["model_name"], max_tokens=60, messages=asked)
        other = [{"role": "user", "content": [shown(BLUE), said("?")]}, *asked[1:]]
        await client.messages.create(model=seeing["model_name"], max_tokens=60, messages=other)
    begun, went_on, anew = (request.chat for request in eyes_script.requests)
    assert begun is not None
    assert went_on is not None
    assert anew is not None
    assert went_on.continued_ids == ids("<user>", RUN, "?<assistant>36", [END])
    assert [(item.start, item.name) for item in went_on.continued_media] == [(6, name_of(RED))]
    assert anew.continued_ids is None, "another picture was shown"
    turns = (await conversation(standing_team, trace))["turns"]
    assert sorted(len(turn["prompt_token_ids"]) for turn in turns)[0] == len(ids("<user>", RUN, "?<assistant>"))


async def test_a_response_goes_on_from_an_earlier_ones_pictures(origin, standing_team, seeing, eyes_script, database):
    headers = {"Trace-Id": uuid.uuid4().hex}
    picture = fresh(9)
    async with openai.AsyncOpenAI(
        base_url=f"{origin}/v1", api_key=standing_team.key, max_retries=0, default_headers=headers
    ) as client:
        shown: list[Any] = [{"type": "input_image", "image_url": url_of(picture), "detail": "auto"}]
        first = await client.responses.create(
            model=seeing["model_name"], input=[{"role": "user", "content": shown}], instructions="Look."
        )
        asked: Any = {"model": seeing["model_name"], "input": "and?", "previous_response_id": first.id}
        await client.responses.create(**asked, instructions="Look.")
        render = eyes_script.requests[-1].chat
        assert render is not None
        assert render.messages[1]["content"] == [named(picture)]
        assert [item.name for item in render.continued_media] == [name_of(picture)]
        async with database.session() as session:
            await session.execute(text("delete from pictures where name = :name"), {"name": name_of(picture)})
        with pytest.raises(openai.NotFoundError, match="previous_response_id: no picture sha256:"):
            await client.responses.create(**asked)


async def test_a_client_continues_by_ids_and_sends_the_pictures_again(standing_team, seeing, eyes_script):
    body = chat(seeing, part(RED), said("?"), return_token_ids=True)
    (choice,) = (await standing_team.http.post("/chat/completions", json=body)).json()["choices"]
    so_far = choice["prompt_token_ids"] + choice["token_ids"]
    more = {"role": "user", "content": [said("Tool returned the following:"), part(BLUE)]}
    messages = [*body["messages"], choice["message"], more]
    again = {**body, "messages": messages, "prompt_token_ids": so_far, "continuation_from": 2}
    (choice,) = (await standing_team.http.post("/chat/completions", json=again)).json()["choices"]
    assert choice["prompt_token_ids"][: len(so_far)] == so_far
    request = eyes_script.requests[-1].chat
    assert request is not None
    assert [message["content"] for message in request.messages] == [
        [named(RED), said("?")],
        "36",
        [said("Tool returned the following:"), named(BLUE)],
    ]


async def test_a_sampler_that_forgot_is_handed_the_pictures_again(
    standing_team, seeing, eyes, asked_of_sampler, database
):
    """As one that was started anew: another process, under the same name, with nothing in it."""
    body = chat(seeing, part(RED), return_token_ids=True)
    assert (await standing_team.http.post("/chat/completions", json=body)).status_code == 200
    backend = ScriptedBackend(SamplerScript(), SamplerInfo(VOCABULARY, CONTEXT, (END,), pictures=RULE), holds_all=True)
    other = Asked(create_sampler_app(backend, Tokens("token")))
    async with serving(other) as url:
        async with database.session() as session:
            moved = "update samplers set url = :url where base_id = :base and stopped_at is null returning id"
            before = "select url from samplers where base_id = :base and stopped_at is null"
            old = await session.scalar(text(before), {"base": eyes[0].id})
            await session.execute(text(moved), {"url": url, "base": eyes[0].id})
        await asyncio.sleep(0.05)
        try:
            assert (await standing_team.http.post("/chat/completions", json=body)).status_code == 200
        finally:
            async with database.session() as session:
                await session.execute(text(moved), {"url": old, "base": eyes[0].id})
    assert other.took() == ["/generate", f"/pictures/{name_of(RED)}", "/generate"]
