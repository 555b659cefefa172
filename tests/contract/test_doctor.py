"""`headway doctor` beside a server, a sampler and a runner that answer."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import create_default_context
from typing import Any

import pytest

from cli.doctor.calling import Trust
from cli.doctor.finding import Finding, State, is_healthy
from cli.doctor.place import Place
from cli.doctor.plane import Plane
from runner.tunnels.doors import Doors
from runner.tunnels.listener import listening_for_tunnels
from server.auth.service import create_key
from store.database import AsyncDatabase
from store.tables import ModelRow, RunnerRow
from tests.contract.conftest import Team
from tests.http_servers import serving
from wire.process.origins import listen

TRUST = Trust(create_default_context())


async def examine(place: Place) -> dict[tuple[str, str], Finding]:
    findings, _ = await asyncio.to_thread(place.examine)
    return {(finding.part.split()[0], finding.what): finding for finding in findings}


@pytest.fixture
def given(database_url: str, base: ModelRow, origin: str, blob_folder: Path, checkpoint_folder: Path) -> dict[str, Any]:
    stores = {"checkpoints": f"file://{checkpoint_folder}", "blobs": f"file://{blob_folder}/"}
    return {"server": origin, "database_url": database_url, "stores": stores, "sampler_token": "token"}


async def test_a_place_that_reaches_everything_is_healthy(given: dict[str, Any], tmp_path: Path):
    found = await examine(Place(Plane.SERVER, tmp_path, TRUST, **given))
    assert is_healthy(found.values()), found
    for check in (("server", "reachable"), ("server", "clock"), ("sampler", "reachable"), ("sampler", "token")):
        assert found[check].state is State.OK
    assert found["checkpoint", "one for all"].state is State.OK


async def test_a_sampler_token_that_samplers_refuse_is_not_ok(given: dict[str, Any], tmp_path: Path):
    found = await examine(Place(Plane.SERVER, tmp_path, TRUST, **{**given, "sampler_token": "another-token"}))
    assert found["sampler", "token"].state is State.NOT_OK
    assert "another-token" not in repr(found)


async def test_a_place_with_other_stores_than_the_server_is_not_ok(given: dict[str, Any], tmp_path: Path):
    stores = {"checkpoints": f"file://{tmp_path}", "blobs": f"file://{tmp_path}"}
    found = await examine(Place(Plane.TRAINER, tmp_path, TRUST, **{**given, "stores": stores}))
    assert found["checkpoint", "one for all"].state is State.NOT_OK
    assert found["blob", "one for all"].state is State.NOT_OK


async def test_a_runner_is_reached_and_its_token_accepted(
    given: dict[str, Any], database: AsyncDatabase, tmp_path: Path
):
    listening = listen("127.0.0.1", 0)
    url = f"ws://127.0.0.1:{listening.getsockname()[1]}"
    row = {"host": "r", "pid": 1, "slots": 1, "kinds": [], "isolation": "none", "versions": {}, "url": url}
    async with listening_for_tunnels(listening, "drawn", Doors()):
        for token, state in (("drawn", State.OK), ("of-another", State.NOT_OK)):
            runner = RunnerRow(id=uuid.uuid4(), tunnel_token=token, **row)
            async with database.session() as session:
                session.add(runner)
            found = await examine(Place(Plane.SERVER, tmp_path, TRUST, **given))
            async with database.session() as session:
                await session.delete(runner)
            assert found["runner", "reachable"].state is State.OK
            assert found["runner", "token"].state is state


class Endless(BaseHTTPRequestHandler):
    """A runner that never ends its answer, in which terminals are told what to do."""

    def do_GET(self) -> None:
        self.send_response_only(500)
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b"\x1b[2J all is well " * 1000)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("url", ["ws://[", "ws://nobody:99999", "gopher://x", "ws://{endless}"])
async def test_a_runner_that_means_ill_is_a_finding_and_does_not_stop_the_others(
    given: dict[str, Any], database: AsyncDatabase, tmp_path: Path, url: str
):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    url = url.format(endless=f"127.0.0.1:{server.server_address[1]}")
    row = {"host": "ill", "pid": 1, "slots": 1, "kinds": [], "isolation": "none", "versions": {}, "url": url}
    runner = RunnerRow(id=uuid.uuid4(), tunnel_token="t\u00f6ken\r\nX: y" * 4, **row)
    async with database.session() as session:
        session.add(runner)
    with serving(server):
        found = await examine(Place(Plane.SERVER, tmp_path, TRUST, **given))
    async with database.session() as session:
        await session.delete(runner)
    assert found["sampler", "token"].state is State.OK
    said = [finding for (part, _), finding in found.items() if part == "runner"]
    assert State.NOT_OK in {finding.state for finding in said}
    assert all(len(finding.found) < 500 for finding in said)


async def test_a_runner_needs_nothing_but_a_server_and_its_key(
    origin: str, database: AsyncDatabase, team: Team, tmp_path: Path
):
    async with database.session() as session:
        key = await create_key(session, "runners", "doctor", role="runner")
    found = await examine(Place(Plane.RUNNER, tmp_path, TRUST, origin, key))
    assert is_healthy(found.values()), found
    assert found["server", "runner's key"].state is State.OK
    for refused in (team.key, "hw_nobody-has-this"):
        found = await examine(Place(Plane.RUNNER, tmp_path, TRUST, origin, refused))
        assert found["server", "runner's key"].state is State.NOT_OK
        assert refused not in repr(found)


async def test_an_origin_that_is_no_server_is_said(origin: str, tmp_path: Path):
    found = await examine(Place(Plane.RUNNER, tmp_path, TRUST, f"{origin}/nowhere", "key"))
    assert found["server", "reachable"].state is State.NOT_OK
