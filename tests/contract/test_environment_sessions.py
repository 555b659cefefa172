"""Sessions of environments and their tunnels, with a runner whose environments are functions."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.app import create_app
from server.environments.sessions import MOST_TUNNELS, end_what_is_over
from server.process.settings import ServerSettings, StopSettings
from store.database import AsyncDatabase
from store.tables import PlacementRow
from tests.contract.conftest import Team, new_team, serving
from tests.contract.runners import FunctionEnvironments, running_runner
from tests.contract.test_deployments import Deploying

HELLO = b'{"jsonrpc":"2.0","id":7,"method":"hello"}\n'


@dataclass
class Playing(Deploying):
    """A team with a deployed environment, `echo`, and a runner that plays it."""

    origin: str
    database: AsyncDatabase

    async def open(self, environment: str = "echo", **fields: Any) -> str:
        reply = await self.team.http.post("/runtime/sessions", json={"environment": environment, **fields})
        assert reply.status_code == 200, reply.text
        return reply.json()["id"]

    def tunnel(self, session_id: str, key: str | None = None) -> AbstractAsyncContextManager[ClientConnection]:
        headers = {"Authorization": f"Bearer {key or self.team.key}"}
        url = f"{self.origin.replace('http', 'ws')}/runtime/tunnels/{session_id}"
        return connect(url, additional_headers=headers, proxy=None, max_size=None)

    async def refusal(self, session_id: str, key: str | None = None) -> str:
        """What the user of a session reads that cannot be had."""
        async with self.tunnel(session_id, key) as tunnel:
            await tunnel.send(HELLO)
            answer = json.loads(await tunnel.recv())
            assert (answer["jsonrpc"], answer["id"], answer["error"]["code"]) == ("2.0", 7, -32000)
            with pytest.raises(ConnectionClosed):
                await tunnel.recv()
            return answer["error"]["message"]

    async def placement(self, session_id: str) -> PlacementRow:
        async with self.database.session() as session:
            return await session.get_one(PlacementRow, uuid.UUID(session_id))

    async def until_ended(self, session_id: str) -> PlacementRow:
        async with asyncio.timeout(20):
            while (row := await self.placement(session_id)).state != "ended":  # noqa: ASYNC110 - the runner ends it
                await asyncio.sleep(0.05)
            return row

    async def aged(self, session_id: str, age_s: int) -> None:
        """As if its tunnels had been closed so long ago."""
        age = """
            update environment_sessions set tunnel_changed_at = now() - make_interval(secs => :age)
            where placement_id = :id and num_open_tunnels = 0 returning placement_id
        """
        async with asyncio.timeout(10):
            while True:
                async with self.database.session() as session:
                    if (await session.execute(text(age), {"age": age_s, "id": uuid.UUID(session_id)})).all():
                        return
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
async def playing(
    origin: str, database: AsyncDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Playing]:
    environments = FunctionEnvironments()
    folder: Path = tmp_path_factory.mktemp("runner")
    async with new_team(origin, database) as team, running_runner(origin, database, team.name, environments, folder):
        playing = Playing(team, environments, origin, database)
        await playing.deploy("echo")
        yield playing


async def received(tunnel: ClientConnection, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes:
        message = await tunnel.recv()
        assert isinstance(message, bytes)
        assert len(message) <= 64 * 1024
        data += message
    return data


async def test_bytes_go_through_a_tunnel_and_come_back(playing: Playing):
    session_id = await playing.open("Echo", trace_id=str(uuid.uuid4()))
    assert session_id == uuid.UUID(session_id).hex
    async with playing.tunnel(session_id) as tunnel:
        for message in (b"one", b"two", b"\0" * 65536):
            await tunnel.send(message)
            assert await received(tunnel, len(message)) == message
    assert (await playing.team.http.delete(f"/runtime/sessions/{session_id}")).status_code == 200
    assert (await playing.until_ended(session_id)).outcome == "cancelled"
    assert (await playing.team.http.delete(f"/runtime/sessions/{session_id}")).status_code == 200


async def test_a_refused_tunnel_is_no_fault_of_the_server(playing: Playing, caplog: pytest.LogCaptureFixture):
    session_id = await playing.open()
    with pytest.raises(InvalidStatus) as refused:
        async with playing.tunnel(session_id, "hw_wrong"):
            raise AssertionError
    assert refused.value.response.status_code == 401
    await asyncio.sleep(0.1)  # uvicorn looks at it after the response
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_six_megabytes_come_back_over_several_tunnels_at_once(playing: Playing):
    session_id, content = await playing.open(), bytes(range(256)) * 4 * 1024 * 6

    async def through() -> None:
        async with playing.tunnel(session_id) as tunnel:
            receiving = asyncio.create_task(received(tunnel, len(content)))
            for start in range(0, len(content), 65536):
                await tunnel.send(content[start : start + 65536])
            assert await receiving == content

    await asyncio.gather(*(through() for _ in range(4)))


async def test_a_client_that_does_not_read_stops_its_environment_and_not_the_server(playing: Playing, monkeypatch):
    written = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        for _ in range(2000):
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    monkeypatch.setattr(playing.environments, "serve", pour)
    session_id = await playing.open()
    headers = {"Authorization": f"Bearer {playing.team.key}"}
    url = f"{playing.origin.replace('http', 'ws')}/runtime/tunnels/{session_id}"
    async with connect(url, additional_headers=headers, proxy=None, max_queue=1, close_timeout=0.1) as tunnel:
        await tunnel.recv()
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.3)
        assert written < 64 * 1024**2  # what the sockets on the way hold
        began = time.monotonic()
        assert (await playing.team.http.get("/healthz")).status_code == 200
        assert time.monotonic() - began < 2
        await received(tunnel, 2 * 1024**2)


async def test_a_tunnel_is_held_while_its_environment_starts(playing: Playing):
    playing.environments.may_start.clear()
    try:
        session_id = await playing.open()
        async with playing.tunnel(session_id) as tunnel:
            await tunnel.send(HELLO)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(tunnel.recv(), 0.5)
            assert await asyncio.wait_for(await tunnel.ping(), 5) >= 0  # the client does not give it up
            playing.environments.may_start.set()
            assert await received(tunnel, len(HELLO)) == HELLO
    finally:
        playing.environments.may_start.set()


async def test_an_environment_that_does_not_start_says_so_in_the_first_answer(playing: Playing):
    await playing.deploy("broken", environment_variables={"BROKEN": "KeyError: 'TOKEN'"})
    session_id = await playing.open("broken")
    said = "the environment could not be run: KeyError: 'TOKEN'"
    assert await playing.refusal(session_id) == said
    assert await playing.refusal(session_id) == said


async def test_a_session_that_has_ended_says_so_in_the_first_answer(playing: Playing):
    session_id = await playing.open()
    await playing.team.http.delete(f"/runtime/sessions/{session_id}")
    assert "session of an environment has ended" in await playing.refusal(session_id)
    for nothing in (uuid.uuid4().hex, "nonsense"):
        assert "there is no such session" in await playing.refusal(nothing)


async def test_a_session_of_another_team_is_not_there(playing: Playing, other_team: Team):
    session_id = await playing.open()
    assert "there is no such session" in await playing.refusal(session_id, other_team.key)
    assert (await other_team.http.delete(f"/runtime/sessions/{session_id}")).status_code == 404
    assert (await other_team.http.post("/runtime/sessions", json={"environment": "echo"})).status_code == 404


async def test_an_environment_that_dies_closes_its_tunnels_and_says_why_to_the_next(playing: Playing):
    session_id = await playing.open()
    async with playing.tunnel(session_id) as tunnel:
        await tunnel.send(b"x")
        await tunnel.recv()
        playing.environments.sessions[session_id].die("the environment was killed: it used more than 512 MB")
        with pytest.raises(ConnectionClosed):
            await tunnel.recv()
    await playing.until_ended(session_id)
    assert "it used more than 512 MB" in await playing.refusal(session_id)


async def test_what_an_environment_says_last_arrives_before_its_tunnel_closes(playing: Playing, monkeypatch):
    async def last_words(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"x" * 3_000_000)
        writer.close()

    monkeypatch.setattr(playing.environments, "serve", last_words)
    async with playing.tunnel(await playing.open()) as tunnel:
        await tunnel.send(b"x")
        assert len(await received(tunnel, 3_000_000)) == 3_000_000
        with pytest.raises(ConnectionClosed) as closed:
            await tunnel.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


async def test_a_session_has_so_many_tunnels_and_no_more(playing: Playing):
    session_id = await playing.open()
    async with playing.tunnel(session_id) as tunnel:
        await tunnel.send(b"x")
        await tunnel.recv()
        set_open = "update environment_sessions set num_open_tunnels = :n where placement_id = :id"
        async with playing.database.session() as session:
            await session.execute(text(set_open), {"n": MOST_TUNNELS, "id": uuid.UUID(session_id)})
        assert f"{MOST_TUNNELS} connections open" in await playing.refusal(session_id)


@pytest.mark.parametrize(
    ("age_s", "num_tunnels", "ends"), [(115, 0, False), (125, 0, True), (55, 1, False), (65, 1, True)]
)
async def test_a_session_that_nobody_uses_ends(playing: Playing, age_s: int, num_tunnels: int, ends: bool):
    session_id = await playing.open()
    if num_tunnels:
        async with playing.tunnel(session_id) as tunnel:
            await tunnel.send(b"x")
            await tunnel.recv()
    await playing.aged(session_id, age_s)
    async with playing.database.session() as session:
        await end_what_is_over(session)
    assert ((await playing.placement(session_id)).cancelled_at is not None) == ends
    if ends:
        assert "the session was ended" in await playing.refusal(session_id)


async def test_a_session_ends_with_its_trace(playing: Playing):
    http, trace_id, job_id = playing.team.http, str(uuid.uuid4()), str(uuid.uuid4())
    await http.post(f"/v2/trace/job/{job_id}/enter", json={"name": "cancelled"})
    await http.post(f"/v2/trace/{trace_id}/enter", json={"job_id": job_id})
    session_id = await playing.open(trace_id=trace_id)
    await http.post("/v2/rollouts/cancel", json={"trace_id": trace_id})
    async with playing.database.session() as session:
        await end_what_is_over(session)
    assert "its trace was cancelled" in await playing.refusal(session_id)


async def test_a_session_plays_the_version_that_served_when_it_was_asked_for(playing: Playing):
    await playing.deploy("versioned")
    playing.environments.may_start.clear()
    session_id = await playing.open("versioned")
    playing.environments.may_start.set()
    await playing.deploy("versioned")
    async with playing.tunnel(session_id) as tunnel:
        await tunnel.send(HELLO)
        await received(tunnel, len(HELLO))
    assert playing.environments.started[-1].version == 1


async def test_a_server_that_stops_closes_its_tunnels_and_refuses_new_ones(
    playing: Playing, database_url: str, tmp_path: Path
):
    settings = ServerSettings(database_url, f"file://{tmp_path}", "token", stop=StopSettings(grace_s=0.5))
    app = create_app(settings)
    session_id = await playing.open()
    async with serving(app) as origin:
        elsewhere = replace(playing, origin=origin)  # any server carries the tunnels of any session
        async with elsewhere.tunnel(session_id) as tunnel:
            await tunnel.send(HELLO)
            await received(tunnel, len(HELLO))
            draining = asyncio.create_task(app.state.shutdown.drain())
            with pytest.raises(ConnectionClosed) as closed:
                await tunnel.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        with pytest.raises(InvalidStatus) as refused:  # the client tries again, and gets to another server
            async with elsewhere.tunnel(session_id):
                raise AssertionError
        assert refused.value.response.status_code == 503
        await draining
    async with playing.tunnel(session_id) as tunnel:
        await tunnel.send(HELLO)
        await received(tunnel, len(HELLO))
