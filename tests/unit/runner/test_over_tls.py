"""A runner before a server over TLS: its own calls, its agents' and its environments' check the certificate."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from runner.agents.host_process import HostProcess
from runner.agents.messages import Drive
from runner.environments.gateway import GatewayRelay
from runner.environments.settings import Gateway
from runner.worker.api import ServerApi, server_trust
from runner.worker.refusals import Away
from tests.certificates import Authority, replace
from tests.unit.runner.service import Service, running_service
from wire.placements import AgentSpec, Heartbeat, RolloutSpec
from wire.process.tls import TlsSettings
from wire.process.tokens import Tokens


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def service(authority: Authority) -> AsyncIterator[Service]:
    ours = authority.certify("127.0.0.1")
    async with running_service(TlsSettings(ours.cert, ours.key)) as service:
        yield service


async def test_the_key_is_read_again_when_its_file_is_replaced(service: Service, authority: Authority, tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("first-key\n")
    api = ServerApi(service.origin, Tokens(file=file), server_trust(authority.file))
    await api.stop(uuid.uuid4(), 30)
    replace(file, "second-key\n")
    await api.stop(uuid.uuid4(), 30)
    assert service.keys == {"Bearer first-key", "Bearer second-key"}
    await api.close()


async def test_a_server_that_cannot_be_believed_is_away_and_gets_no_key(
    service: Service, authority: Authority, tmp_path: Path
):
    for trust in (server_trust(None), server_trust(Authority(tmp_path, "another").file)):
        api = ServerApi(service.origin, Tokens("a-key"), trust)
        with pytest.raises(Away, match="certificate verify failed"):
            await api.heartbeat(uuid.uuid4(), Heartbeat(held=[]), 30)
        await api.close()
    assert not service.keys


async def test_environments_reach_the_gateway_over_tls(service: Service, authority: Authority):
    async with AsyncExitStack() as stack:
        answers = list[int]()
        for trust in (server_trust(authority.file), True):
            relay = GatewayRelay(Gateway(service.origin, lambda _team: "hw-key", trust))
            relay.belongs_to("reds", uuid.uuid4().hex)
            stack.push_async_callback(relay.close)
            port = await relay.listen()
            async with httpx.AsyncClient(trust_env=False, headers={"Trace-Id": "t"}) as client:
                reply = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json={"model": "m"})
            answers.append(reply.status_code)
    assert answers == [200, 502]


async def test_agents_reach_the_server_over_tls(service: Service, authority: Authority, tmp_path: Path):
    from hud import Environment
    from hud.environment.server import bind

    sums = Environment(name="sums")

    @sums.template()
    async def add(a: int, b: int) -> Any:
        answer = yield f"{a}+{b}=?"
        yield float(str(answer) == str(a + b))

    await sums.start()
    server = await bind(sums)
    address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    host = await HostProcess.start(service.origin, "hw-key", tmp_path / "agents", authority.file)
    agent = AgentSpec(type="openai_compatible", config={"model": "m"})
    rollout = RolloutSpec(trace_id=uuid.uuid4(), job_id=uuid.uuid4(), task="add", args={"a": 2, "b": 2}, agent=agent)
    drive = Drive(id="1", rollout=rollout, environment="sums", address=address, verifier_address=None, timeout_s=60.0)
    try:
        driven = await asyncio.wait_for(host.drive(drive), 90)
        assert (driven.error, driven.void) == (None, None)
        assert service.of(rollout.trace_id.hex) == ["enter", "chat", "exit", "telemetry-upload"]
    finally:
        await host.close()
        server.close()
        await sums.stop()
