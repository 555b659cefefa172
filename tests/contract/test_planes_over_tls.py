"""Clients, server, sampler and runner over TLS, with tokens and certificates from files that are replaced."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs
from websockets.asyncio.client import connect

from sampler.app import create_app as create_sampler_app
from sampler.backends.base import SamplerInfo
from server.app import create_app
from server.process.settings import ServerSettings, Timeouts
from store.database import AsyncDatabase
from store.tables import ModelRow
from tests.certificates import Authority, Certificate, replace
from tests.contract.conftest import CONTEXT, VOCABULARY, Team, another_base, new_team, serving
from tests.contract.runners import FunctionEnvironments, running_runner
from tests.contract.stand_ins import BreaksOff
from tests.contract.test_deployments import Deploying
from tests.ports.scripted_backend import END, SamplerScript, ScriptedBackend
from wire.process.tls import TlsSettings, TrustSettings, trusting_context
from wire.process.tokens import Tokens

PLANES = "planes.headway.internal"
OLD, NEW = "old-token", "new-token"
NUM_CLIENTS = 8


@dataclass
class Fleet:
    """Where each plane keeps its own files, as hosts of their own would."""

    authority: Authority
    server_cas: Path
    server_tokens: Path
    sampler_tokens: Path
    server: Certificate
    sampler: Certificate
    asked: list[str] = field(default_factory=list[str])
    """What samplers were sent."""

    @property
    def trust(self) -> TrustSettings:
        return TrustSettings(self.server_cas, PLANES)


class Asked:
    """A sampler's app that notes which of its routes are called."""

    def __init__(self, app: ASGIApp, fleet: Fleet) -> None:
        self._app, self._fleet = app, fleet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/healthz":
            self._fleet.asked.append(scope["path"])
        await self._app(scope, receive, send)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    authority = Authority(tmp_path)
    files = [tmp_path / name for name in ("server-cas", "server-tokens", "sampler-tokens")]
    files[0].write_text(authority.file.read_text())
    for file in files[1:]:
        file.write_text(OLD)
    return Fleet(authority, *files, authority.certify("127.0.0.1"), authority.certify(PLANES))


@pytest.fixture
async def base_over_tls(
    fleet: Fleet, database: AsyncDatabase, base: ModelRow, sampler_script: SamplerScript
) -> AsyncIterator[str]:
    """A base whose only sampler listens over TLS."""
    slug = f"org/over-tls-{uuid.uuid4().hex[:8]}"
    backend = ScriptedBackend(sampler_script, SamplerInfo(VOCABULARY, CONTEXT, (END,)), holds_all=True)
    app = Asked(BreaksOff(create_sampler_app(backend, Tokens(file=fleet.sampler_tokens))), fleet)
    async with (
        serving(app, TlsSettings(fleet.sampler.cert, fleet.sampler.key)) as url,
        another_base(database, base, slug, url),
    ):
        yield slug


@pytest.fixture
def patience_s() -> float:
    """Of the server with samplers that it cannot ask."""
    return 2.0


@pytest.fixture
async def team_over_tls(
    fleet: Fleet, database_url: str, database: AsyncDatabase, tmp_path: Path, base_over_tls: str, patience_s: float
) -> AsyncIterator[Team]:
    """Of a server over TLS, with a client that checks its certificate."""
    settings = ServerSettings(
        database_url,
        f"file://{tmp_path / 'blobs'}",
        "",
        sampler_token_file=fleet.server_tokens,
        timeouts=Timeouts(samplers_s=patience_s),
        trust=fleet.trust,
    )
    checked: dict[str, Any] = {"verify": trusting_context(fleet.authority.file), "trust_env": False, "timeout": 30}
    async with (
        serving(create_app(settings), TlsSettings(fleet.server.cert, fleet.server.key)) as origin,
        new_team(origin, database) as team,
        httpx.AsyncClient(base_url=origin, headers=team.http.headers, **checked) as http,
    ):
        yield Team(team.name, team.key, http)


def chat(base: str) -> dict[str, Any]:
    return {"model": base, "messages": [{"role": "user", "content": "12*3?"}]}


async def test_tokens_and_certificates_are_rotated_under_load_without_a_failed_request(
    fleet: Fleet, team_over_tls: Team, base_over_tls: str
):
    statuses, is_over = list[int](), False

    async def keep_asking() -> None:
        while not is_over:
            statuses.append((await team_over_tls.http.post("/chat/completions", json=chat(base_over_tls))).status_code)

    async def more() -> None:
        """Requests that began after the last change."""
        seen = len(statuses)
        while len(statuses) < seen + 2 * NUM_CLIENTS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    other = Authority(fleet.authority.folder, "another")
    clients = [asyncio.create_task(keep_asking()) for _ in range(NUM_CLIENTS)]
    await more()
    both, old, new = [fleet.server_tokens, fleet.sampler_tokens], f"{OLD}\n{NEW}\n", f"{NEW}\n{OLD}\n"
    for content in (old, new, f"{NEW}\n"):  # added everywhere, made the first everywhere, the old one dropped
        for file in reversed(both):
            replace(file, content)
            await more()
    replace(fleet.server_cas, fleet.authority.file.read_text() + other.file.read_text())
    fleet.sampler.replace_by(other.certify(PLANES))
    fleet.server.replace_by(fleet.authority.certify("127.0.0.1"))
    await more()
    replace(fleet.server_cas, other.file.read_text())
    await more()
    is_over = True
    await asyncio.gather(*clients)
    assert set(statuses) == {200}


async def test_a_token_that_samplers_dropped_is_waited_out_and_its_refusal_repeats_no_token(
    fleet: Fleet, team_over_tls: Team, base_over_tls: str
):
    assert (await team_over_tls.http.post("/chat/completions", json=chat(base_over_tls))).status_code == 200
    replace(fleet.sampler_tokens, NEW)
    with capture_logs() as logs:
        reply = await team_over_tls.http.post("/chat/completions", json=chat(base_over_tls))
    assert reply.status_code == 503
    assert "does not accept this server's token" in reply.text
    assert [entry["event"] for entry in logs].count("sampler_refuses_token") == 1
    assert not any(token in f"{reply.text} {logs}" for token in (OLD, NEW))
    asked = len(fleet.asked)
    waiting = asyncio.create_task(team_over_tls.http.post("/chat/completions", json=chat(base_over_tls)))
    while len(fleet.asked) == asked:  # noqa: ASYNC110 - it is refused once, and tries again
        await asyncio.sleep(0.01)
    replace(fleet.server_tokens, NEW)
    assert (await waiting).status_code == 200


@pytest.mark.parametrize("patience_s", [0.2])
@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_sampler_that_cannot_be_believed_is_sent_nothing(
    wrong: str, fleet: Fleet, team_over_tls: Team, base_over_tls: str
):
    if wrong == "name":
        fleet.sampler.replace_by(fleet.authority.certify("127.0.0.1", "elsewhere.headway.internal"))
    else:
        fleet.sampler.replace_by(Authority(fleet.authority.folder, "another").certify(PLANES))
    with capture_logs() as logs:
        reply = await team_over_tls.http.post("/chat/completions", json=chat(base_over_tls))
    assert (reply.status_code, fleet.asked) == (503, [])
    assert int(reply.headers["retry-after"]) > 0
    said = [entry for entry in logs if entry["event"] == "plane_not_trusted"]
    assert [(entry["host"], entry["name"]) for entry in said] == [("127.0.0.1", PLANES)]


async def test_an_environment_is_played_through_tunnels_over_tls(
    fleet: Fleet, team_over_tls: Team, database: AsyncDatabase, tmp_path: Path
):
    environments, at_runner = FunctionEnvironments(), fleet.authority.certify(PLANES)
    origin, ca = str(team_over_tls.http.base_url).rstrip("/"), fleet.authority.file
    tls = TlsSettings(at_runner.cert, at_runner.key)
    async with running_runner(origin, database, team_over_tls.name, environments, tmp_path / "runner", tls, ca):
        await Deploying(team_over_tls, environments).deploy("echo")
        reply = await team_over_tls.http.post("/runtime/sessions", json={"environment": "echo"})
        url = f"{origin.replace('https', 'wss')}/runtime/tunnels/{reply.json()['id']}"
        headers = {"Authorization": f"Bearer {team_over_tls.key}"}
        for renewed in (False, True):
            if renewed:
                at_runner.replace_by(fleet.authority.certify(PLANES))
            async with connect(url, additional_headers=headers, ssl=trusting_context(ca), proxy=None) as tunnel:
                await tunnel.send(b"hello")
                assert await tunnel.recv() == b"hello"
