"""The stand-in of the gateway's benchmark speaks the sampler port, and takes the time that it says."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest

from bench.stand_in_sampler import NUM_TOKENS, StandIn, answer_s
from server.sampling.connections import Connections
from server.sampling.sampler_client import SamplerClient
from wire.errors import NotFound
from wire.process.tokens import Tokens
from wire.sampling import GenerateRequest, ParseOptions, RenderRequest, SamplingParams


async def no_picture(team_id: uuid.UUID, name: str) -> bytes:
    raise NotFound(f"no picture {name}")


@pytest.mark.parametrize("whole", [True, False])
async def test_the_stand_in_speaks_the_port_and_takes_its_time(whole):
    server = await asyncio.get_running_loop().create_server(StandIn, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    connections = Connections(connect_s=5, read_s=30)
    client = SamplerClient(connections, Tokens("token"), lambda _: None, no_picture)
    chat = RenderRequest(messages=[{"role": "user", "content": "twelve"}], continued_ids=[7])
    ids = (await client.render(url, chat)).token_ids
    assert ids[0] == 7
    assert len(ids) == 3
    started = time.perf_counter()
    request = GenerateRequest(adapter="a", chat=chat, params=SamplingParams(), whole=whole, reading=ParseOptions())
    events = [event async for event in client.generate(url, request)]
    seconds = time.perf_counter() - started
    tokens = [token_id for event in events for token_id in event.tokens.ids]
    assert (len(events) == 1) == whole
    assert [event.prompt_token_ids for event in events] == [ids] + [None] * (len(events) - 1)
    assert NUM_TOKENS[0] <= len(tokens) <= NUM_TOKENS[1]
    assert seconds >= 0.95 * answer_s(len(tokens))
    text = "".join(event.text for event in events)
    said = [event.message.content if whole else event.deltas[0].content for event in events]
    assert "".join(said) == text
    connections.close()
    server.close()
