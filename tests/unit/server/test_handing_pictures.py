"""A sampler that lacks pictures is handed them, and asked again; one that cannot keep them is left alone."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.sampling.connections import Connections
from server.sampling.sampler_client import SamplerClient, SamplerFailed, SamplerGone
from tests.unit.server.test_connections import Server
from wire.errors import Gone
from wire.process.origins import http_origin
from wire.process.tokens import Tokens
from wire.sampling import (
    PICTURES_MISSING,
    GenerateEvent,
    GenerateRequest,
    MediaItem,
    PromptScores,
    SamplingParams,
    ScoreRequest,
)

TEAM = uuid.uuid4()
NAMES = ["1" * 64, "2" * 64]
MEDIA = [MediaItem(start=2 * i, num_tokens=1, name=name, width=8, height=8) for i, name in enumerate(NAMES)]
GENERATE = GenerateRequest(
    adapter="a", prompt_token_ids=[9, 5, 9], prompt_media=MEDIA, params=SamplingParams(), team=str(TEAM)
)
SCORE = ScoreRequest(adapter="a", prompt_token_ids=[9, 5, 9], prompt_media=MEDIA, team=str(TEAM))
EVENT = GenerateEvent(text="4", finish_reason="stop")


class Sampler:
    """Speaks of the port what pictures need. `keeps`: what it is handed stays. `silent`: it does not say what it
    lacks. `takes`: its answer to what it is handed. `lacks`: what it says that it lacks, unless it was handed it."""

    def __init__(
        self, *, keeps: bool = True, silent: bool = False, takes: str = "204 No Content", lacks: list[str] = NAMES
    ) -> None:
        self._lacks = lacks
        self._takes = takes
        self.held = dict[str, bytes]()
        self.heads = list[bytes]()
        self.lost = list[str]()
        self._keeps = keeps
        self._silent = silent
        self.server = Server(self._answer)

    @property
    def paths(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.heads]

    async def _answer(self, reader, writer) -> None:
        head, _, body = self.server.requests[-1].partition(b"\r\n\r\n")
        self.heads.append(head)
        path = self.paths[-1]
        if path.startswith("/pictures/"):
            if self._keeps:
                self.held[path.removeprefix("/pictures/")] = body
            length = "" if self._takes.startswith("204") else "Content-Length: 0\r\n"
            writer.write(f"HTTP/1.1 {self._takes}\r\n{length}\r\n".encode())
            return
        missing = [name for name in self._lacks if name not in self.held]
        problem = {"code": PICTURES_MISSING, "message": "pictures are missing"}
        answer = EVENT if path == "/generate" else PromptScores(logprobs=[-0.5, -0.5])
        content = answer.model_dump_json() + "\n"
        if missing:
            content = json.dumps({**problem, **({} if self._silent else {"names": missing})})
        status = "424 Failed Dependency" if missing else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())


async def read(team_id: uuid.UUID, name: str) -> bytes:
    assert team_id == TEAM
    return b"PNG of " + name.encode()


async def gone(team_id: uuid.UUID, name: str) -> bytes:
    raise Gone(f"picture {name} is not there any more")


@asynccontextmanager
async def reaching(sampler: Sampler, read=read) -> AsyncIterator[tuple[SamplerClient, str]]:
    connections = Connections(connect_s=1, read_s=1)
    listening = await asyncio.start_server(sampler.server.talk, "127.0.0.1", 0)
    url = http_origin("127.0.0.1", listening.sockets[0].getsockname()[1])
    yield SamplerClient(connections, Tokens("token"), sampler.lost.append, read), url
    connections.close()
    listening.close()


async def generated(client: SamplerClient, url: str) -> list[GenerateEvent]:
    return [event async for event in client.generate(url, GENERATE)]


async def test_it_is_handed_what_it_lacks_once_and_asked_again():
    sampler = Sampler()
    async with reaching(sampler) as (client, url):
        assert await generated(client, url) == [EVENT]
        assert (await client.score(url, SCORE)).logprobs == [-0.5, -0.5]
    assert sampler.held == {name: b"PNG of " + name.encode() for name in NAMES}
    handed = [f"/pictures/{name}" for name in NAMES]
    assert sampler.paths == ["/generate", *handed, "/generate", "/score"]
    assert all(b"Authorization: Bearer token\r\n" in head for head in sampler.heads)
    kinds = [head.partition(b"Content-Type: ")[2].partition(b"\r\n")[0] for head in sampler.heads]
    assert kinds == [b"application/json", b"image/png", b"image/png", b"application/json", b"application/json"]


async def test_a_sampler_that_keeps_none_is_given_up_as_one_that_is_full():
    sampler = Sampler(keeps=False)
    async with reaching(sampler) as (client, url):
        with pytest.raises(SamplerGone) as given_up:
            await generated(client, url)
    assert given_up.value.broke_off is False, "the request is not what it died of"
    assert sampler.paths.count("/generate") == 4


async def test_a_sampler_without_room_for_a_picture_is_not_taken_for_a_dead_one():
    sampler = Sampler(takes="503 Service Unavailable")
    async with reaching(sampler) as (client, url):
        with pytest.raises(SamplerGone) as given_up:
            await generated(client, url)
    assert (given_up.value.broke_off, sampler.lost) == (False, [])
    assert sampler.paths == ["/generate", f"/pictures/{NAMES[0]}"]


async def test_a_sampler_that_does_not_say_what_it_lacks_is_at_fault():
    async with reaching(Sampler(silent=True)) as (client, url):
        with pytest.raises(SamplerFailed, match="does not say which"):
            await client.score(url, SCORE)


async def test_a_picture_that_is_not_kept_any_more_ends_the_request():
    sampler = Sampler()
    async with reaching(sampler, gone) as (client, url):
        with pytest.raises(Gone, match=NAMES[0]):
            await generated(client, url)
    assert sampler.paths == ["/generate"]


async def test_a_sampler_of_an_older_release_is_not_believed():
    """It knows nothing of pictures, and would answer what it never saw."""
    sampler = Sampler(lacks=[], takes="404 Not Found")
    async with reaching(sampler) as (client, url):
        with pytest.raises(SamplerGone) as given_up:
            await generated(client, url)
        with pytest.raises(SamplerGone):
            await client.score(url, SCORE)
        assert [event async for event in client.generate(url, GENERATE.model_copy(update={"prompt_media": []}))]
    assert (given_up.value.broke_off, sampler.lost) == (False, [])


async def test_a_sampler_that_has_them_all_shows_once_that_it_takes_pictures():
    sampler = Sampler(lacks=[])
    async with reaching(sampler) as (client, url):
        assert await generated(client, url) == await generated(client, url) == [EVENT]
    assert sampler.paths == ["/generate", f"/pictures/{NAMES[0]}", "/generate", "/generate"]
