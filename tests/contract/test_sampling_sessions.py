"""Sampling over the Tinker API: sessions, requests that are answered later, and processes that die over them."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func

from server.app import create_app
from server.http.context import Context
from server.principals.callers import Caller
from server.process.settings import ServerSettings, Timeouts
from server.sampling_sessions.futures import Failed, SamplingFutures
from server.sampling_sessions.results import Sampled
from server.sampling_sessions.running import Wait
from server.sampling_sessions.sessions import get_sampler, join_sampling_session, require_request
from store.tables import CheckpointRow, ClientSessionRow
from tests.contract.conftest import CONTEXT, serving
from tests.ports.scripted_backend import END, SamplerScript
from wire.errors import Forbidden, Gone, NotFound

ROOT = "/api/v1"
PROMPT = [97, 98, 99]


class Client:
    """One client of a sampling session, as the SDK is."""

    def __init__(self, http: httpx.AsyncClient, session_id: str, sampler_id: str, futures: SamplingFutures) -> None:
        self.http, self.session_id, self.sampler_id, self.futures = http, session_id, sampler_id, futures
        self.team_id = uuid.UUID(int=0)
        self.sequence = 0

    async def post(self, seq_id: int | None = None, prompt: Any = PROMPT, **asked: Any) -> httpx.Response:
        """`prompt`: token ids, or chunks."""
        if seq_id is None:
            seq_id, self.sequence = self.sequence, self.sequence + 1
        body = {"sampling_session_id": self.sampler_id, "seq_id": seq_id, "new_field": 1}
        text = {"chunks": [{"type": "encoded_text", "tokens": prompt}]}
        body |= {"prompt": prompt if isinstance(prompt, dict) else text, "sampling_params": {}}
        return await self.http.post(f"{ROOT}/asample", json=body | asked)

    async def submit(self, *args: Any, **asked: Any) -> uuid.UUID:
        reply = await self.post(*args, **asked)
        assert reply.status_code == 200, reply.text
        return uuid.UUID(reply.json()["request_id"].removeprefix("sample-"))

    async def result(self, request_id: uuid.UUID, timeout_s: float = 10) -> Any:
        return await self.futures.result(self.team_id, request_id, timeout_s)

    async def sample(self, **asked: Any) -> Sampled:
        outcome = await self.result(await self.submit(**asked))
        assert isinstance(outcome, Sampled), outcome
        return outcome

    async def failure(self, **asked: Any) -> Failed:
        outcome = await self.result(await self.submit(**asked))
        assert isinstance(outcome, Failed)
        return outcome

    async def completed(self, cursor: int = 0, clone: int = 0, **more: Any) -> tuple[list[Any], int]:
        target = {"type": "sampling_session", "sampling_session_id": self.sampler_id, "cloned_sampler_id": clone}
        body = {"target": target, "prev_cursor": cursor, "timeout": 5, **more}
        reply = await self.http.post(f"{ROOT}/retrieve_futures", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()["completions"], reply.json()["cursor"]


@pytest.fixture(scope="module")
async def context(database_url: str, base, tmp_path_factory) -> AsyncIterator[tuple[str, Context]]:
    """A server of few connections, whose context the tests may look into."""
    settings = ServerSettings(
        database_url,
        f"file://{tmp_path_factory.mktemp('blobs')}",
        "token",
        timeouts=Timeouts(samplers_s=1),
        database_pool_size=10,
    )
    app = create_app(settings)
    async with serving(app) as url:
        yield url, app.state.context


async def opened(http: httpx.AsyncClient, futures: SamplingFutures, **weights: Any) -> Client:
    session_id = (await http.post(f"{ROOT}/create_session", json={})).json()["session_id"]
    body = {"session_id": session_id, "sampling_session_seq_id": 0, **(weights or {"base_model": "org/Tiny-Base"})}
    reply = await http.post(f"{ROOT}/create_sampling_session", json=body)
    assert reply.status_code == 200, reply.text
    client = Client(http, session_id, reply.json()["sampling_session_id"], futures)
    client.team_id = uuid.UUID((await http.get("/v2/team")).json()["id"])
    return client


@pytest.fixture
async def client(team, context) -> AsyncIterator[Client]:
    url, found = context
    headers = {"X-API-Key": team.key}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        yield await opened(http, found.sampling_futures)


# Sessions


async def test_a_sampling_session_is_opened_once_and_says_what_it_samples(client: Client):
    body = {"session_id": client.session_id, "sampling_session_seq_id": 0, "base_model": "org/Tiny-Base"}
    again = await client.http.post(f"{ROOT}/create_sampling_session", json=body)
    assert again.json() == {"type": "create_sampling_session", "sampling_session_id": client.sampler_id}
    shown = await client.http.get(f"{ROOT}/samplers/{client.sampler_id}")
    assert shown.json() == {"sampler_id": client.sampler_id, "base_model": "org/Tiny-Base", "model_path": None}
    joined = [
        (
            await client.http.post(f"{ROOT}/join_sampling_session", json={"sampling_session_id": client.sampler_id})
        ).json()
        for _ in range(2)
    ]
    assert [reply["client_counter"] for reply in joined] == [1, 2]
    for wrong, status in (({"base_model": "org/None"}, 404), ({"model_path": "tinker://x/sampler_weights/y"}, 404)):
        reply = await client.http.post(f"{ROOT}/create_sampling_session", json={**body, "base_model": None, **wrong})
        assert reply.status_code == status, reply.text


async def test_a_node_of_any_model_is_sampled_by_its_path(team, context, client: Client, base, sampler_script):
    model = await team.fork(str(base.id))
    checkpoint = (await team.step(model["id"]))["checkpoint_id"]
    nodes = (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()
    name = next(node["name"] for node in nodes if node["id"] == checkpoint)
    path = f"tinker://{model['id']}/sampler_weights/{name}"
    sampler = await opened(client.http, client.futures, model_path=path)
    shown = (await client.http.get(f"{ROOT}/samplers/{sampler.sampler_id}")).json()
    assert (shown["base_model"], shown["model_path"]) == ("org/Tiny-Base", path)
    adapter = f"hw-{uuid.UUID(checkpoint).hex}"
    await held(context[1], "delete from sampler_adapters where adapter = %(adapter)s", adapter)
    request_id = await sampler.submit()
    waited = await sampler.result(request_id, 1.5)
    assert isinstance(waited, Wait)
    assert (waited.state, "no sampler" in (waited.reason or "")) == ("paused_capacity", True)
    await held(context[1], _HOLD, adapter)
    assert isinstance(await sampler.result(request_id), Sampled)
    assert sampler_script.requests[-1].adapter == adapter


async def test_a_node_without_files_gets_them_before_it_is_sampled(team, client: Client, base, database):
    model = await team.fork(str(base.id))
    checkpoint = uuid.UUID((await team.step(model["id"]))["checkpoint_id"])
    async with database.session() as session:
        row = await session.get_one(CheckpointRow, checkpoint)
        row.is_saved = False
    path = f"tinker://{model['id']}/sampler_weights/{row.name}"
    await opened(client.http, client.futures, model_path=path, base_model="org/Tiny-Base")
    async with database.session() as session:
        assert (await session.get_one(CheckpointRow, checkpoint)).is_saved


@pytest.mark.slow
async def test_a_request_that_ends_one_sampler_after_another_fails(client: Client, sampler_script: SamplerScript):
    sampler_script.die_times, sampler_script.die_after_tokens = 100, 1
    outcome = await client.result(await client.submit(sampling_params={"max_tokens": 4}), 30)
    assert isinstance(outcome, Failed)
    assert outcome.category == "server"
    assert sampler_script.die_times > 80


_HOLD = """
    with loaded as (
        insert into sampler_adapters (sampler_id, adapter, state)
        select id, %(adapter)s, 'loaded' from samplers where stopped_at is null returning adapter
    )
    select pg_notify('hw_adapter_loaded', adapter) from loaded
"""


async def held(context: Context, statement: str, adapter: str) -> None:
    async with context.database.connection() as connection:
        await connection.execute(statement.encode(), {"adapter": adapter})


# Requests


async def test_answers_have_tokens_logprobs_and_a_reason(client: Client, sampler_script: SamplerScript):
    sampler_script.answer = "36"
    sampled = await client.sample(num_samples=2, sampling_params={"max_tokens": 9, "seed": -(2**63)})
    assert [one.tokens_N.tolist() for one in sampled.sequences] == 2 * [[ord("3"), ord("6"), END]], "the end stays in"
    assert [one.stop_reason for one in sampled.sequences] == ["stop", "stop"]
    assert all(one.logprobs_N.tolist() == [-0.5] * 3 for one in sampled.sequences)
    assert (sampled.prompt_logprobs_P, sampled.prompt_alternatives, sampled.targets) == (None, None, None)


@pytest.mark.parametrize(
    ("stop", "params"),
    [
        (None, ([], [], False)),
        ([], ([], [], True)),
        ("x", (["x"], [], False)),
        (["x", "yz"], (["x", "yz"], [], False)),
        ([7, 9], ([], [7, 9], False)),
    ],
)
async def test_stops_are_those_that_are_listed_and_the_end(client: Client, sampler_script, stop, params):
    await client.sample(sampling_params={"max_tokens": 2, "stop": stop, "top_k": -1})
    asked = sampler_script.requests[-1].params
    assert (asked.stop, asked.stop_token_ids, asked.ignore_eos) == params
    assert (asked.top_k, asked.skip_special_tokens) == (0, False)


async def test_a_seed_reproduces_all_answers_and_they_differ(client: Client, sampler_script: SamplerScript):
    sampler_script.answer = None
    params = {"max_tokens": 20, "seed": 2**63 + 5}
    first, second = [await client.sample(num_samples=3, sampling_params=params) for _ in range(2)]
    tokens = [[one.tokens_N.tolist() for one in sampled.sequences] for sampled in (first, second)]
    assert tokens[0] == tokens[1]
    assert len({tuple(row) for row in tokens[0]}) == 3
    unseeded = await client.sample(num_samples=3, sampling_params={"max_tokens": 20})
    assert unseeded.sequences[0].tokens_N.tolist() not in tokens[0]


async def test_logprobs_of_the_prompt_come_in_the_shapes_that_were_asked_for(client: Client):
    targets = {"data": [97, -1, 99, 98], "dtype": "int64", "shape": [2, 2]}
    sampled = await client.sample(
        prompt_logprobs=True, topk_prompt_logprobs=3, topk_sample_logprobs=2, target_prompt_logprobs=targets,
        sampling_params={"max_tokens": 1},
    )  # fmt: skip
    assert sampled.prompt_logprobs_P is not None
    assert sampled.prompt_alternatives is not None
    assert [value == value for value in sampled.prompt_logprobs_P.tolist()] == [False, True, True]
    assert sampled.prompt_alternatives.ids_NK.tolist() == [[0, 0, 0], [97, 98, 99], [97, 98, 99]]
    assert sampled.prompt_alternatives.logprobs_NK[0].tolist() == [-99999.0] * 3
    assert sampled.target_logprobs is not None
    assert sampled.target_logprobs[1] == 0
    assert sampled.target_logprobs[3] == sampled.prompt_logprobs_P[1], "of 98"
    assert sampled.sequences[0].alternatives is not None
    assert sampled.sequences[0].alternatives.ids_NK.shape == (1, 2)
    last = await client.sample(prompt_logprobs=True, prompt_logprobs_last_n=1, sampling_params={"max_tokens": 0})
    assert last.prompt_logprobs_P is not None
    assert [value == value for value in last.prompt_logprobs_P.tolist()] == [False, False, True]
    assert [one.tokens_N.tolist() for one in last.sequences] == [[]]


async def test_sparse_targets_come_back_in_their_layout(client: Client):
    sparse = {"data": [97, 98, 99], "sparse_crow_indices": [0, 2, 3], "sparse_col_indices": [0, 4, 1]}
    targets = {"dtype": "int64", "shape": [2, 5], **sparse}
    sampled = await client.sample(target_prompt_logprobs=targets, sampling_params={"max_tokens": 1})
    assert sampled.targets is not None
    assert sampled.target_logprobs is not None
    assert sampled.targets.columns is not None
    assert (sampled.targets.shape, sampled.targets.columns.tolist()) == ((2, 5), [0, 4, 1])
    assert sampled.target_logprobs.shape == (3,)
    assert sampled.prompt_logprobs_P is None


WRAPS = {"data": [1], "sparse_crow_indices": [0, 2**31 - 1, 1], "sparse_col_indices": [0]}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"prompt": []}, "empty"),
        ({"prompt": [97, 10_000]}, "vocabulary"),
        ({"prompt": [-1]}, "negative"),
        ({"prompt": [97] * 500, "sampling_params": {"max_tokens": 100}}, f"context of {CONTEXT} tokens"),
        ({"sampling_params": {"repetition_penalty": 2}}, "repetition_penalty"),
        ({"sampling_params": {"temperature": -1}}, "temperature"),
        ({"sampling_params": {"stop": [""]}}, "empty"),
        ({"sampling_params": {"stop": ["x", 3]}}, "stop"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_samples": 2.0}, "num_samples"),
        ({"num_samples": "2"}, "num_samples"),
        ({"prompt_alt_tokens_k": 2}, "prompt_alt_tokens_k"),
        ({"record_stability_info": True}, "record_stability_info"),
        ({"prompt_logprobs_last_n": 2}, "prompt_logprobs_last_n"),
        ({"target_prompt_logprobs": {"data": [1], "dtype": "int64", "shape": [1, 1]}}, r"\[2, K\]"),
        ({"target_prompt_logprobs": {**WRAPS, "dtype": "int64", "shape": [2, 1]}}, "do not make a matrix"),
    ],
)
async def test_what_makes_no_sense_fails_the_future_and_not_the_call(client: Client, asked, why):
    failed = await client.failure(**asked)
    assert failed.category == "user"
    assert re.search(why, failed.message), failed.message


@pytest.mark.parametrize("seq_id", [-1, 2**63, 1.0, "1", True, [1]])
async def test_what_counts_nothing_is_refused_at_once(client: Client, seq_id):
    assert (await client.post(seq_id)).status_code == 422


async def test_images_are_refused_by_name(client: Client):
    body = {"chunks": [{"type": "image", "data": "", "format": "png"}]}
    reply = await client.post(prompt=[1])
    assert reply.status_code == 200
    sent = {"sampling_session_id": client.sampler_id, "seq_id": 99, "prompt": body, "sampling_params": {}}
    accepted = (await client.http.post(f"{ROOT}/asample", json=sent)).json()
    assert len(accepted["sample_sequence_ids"]) == 1
    outcome = await client.result(uuid.UUID(accepted["request_id"].removeprefix("sample-")))
    assert outcome == Failed("user", "prompt: chunk 0 is a picture, and the base of this model takes text alone")


async def test_a_request_that_comes_again_is_the_same(client: Client, sampler_script: SamplerScript):
    replies = await asyncio.gather(*(client.post(7, num_samples=2) for _ in range(5)))
    assert len({reply.text for reply in replies}) == 1
    assert len(replies[0].json()["sample_sequence_ids"]) == 2
    await client.result(uuid.UUID(replies[0].json()["request_id"].removeprefix("sample-")))
    assert (await client.post(7, num_samples=2)).json() == replies[0].json()
    assert len(sampler_script.requests) == 2, "one for each answer, once"
    other = await client.post(7, num_samples=1)
    assert (other.status_code, "seq_id" in other.text) == (422, True)


async def test_other_teams_and_finished_sessions(client: Client, other_team, context):
    request_id = await client.submit()
    async with httpx.AsyncClient(base_url=context[0], headers={"X-API-Key": other_team.key}, trust_env=False) as http:
        theirs = Client(http, client.session_id, client.sampler_id, client.futures)
        assert (await theirs.post()).status_code == 404
        assert (await http.get(f"{ROOT}/samplers/{client.sampler_id}")).status_code == 404
    with pytest.raises(NotFound):
        await client.futures.result(uuid.uuid4(), request_id, 0)
    await client.http.post(f"{ROOT}/sessions/{client.session_id}/finish", json={})
    assert (await client.post()).status_code == 410


async def test_a_key_for_other_models_uses_up_no_number(client: Client, team):
    me = (await team.http.get("/v2/team")).json()
    narrow = Caller(uuid.UUID(me["id"]), uuid.uuid4(), team.name, "member", frozenset({"sample"}), frozenset())
    for _ in range(2):
        with pytest.raises(Forbidden):
            await client.futures.submit(narrow, client.sampler_id, 0, Failed("user", "it is not even looked at"))
    assert isinstance(await client.sample(), Sampled)


async def test_a_key_for_other_models_reads_no_answer(client: Client, team, database):
    me = (await team.http.get("/v2/team")).json()
    narrow = Caller(uuid.UUID(me["id"]), uuid.uuid4(), team.name, "member", frozenset({"sample"}), frozenset())
    request_id = await client.submit()
    with pytest.raises(Forbidden):
        await require_request(database, narrow, request_id)
    async with database.session() as session:
        for look in (get_sampler, join_sampling_session):
            with pytest.raises(Forbidden):
                await look(session, narrow, client.sampler_id)
    assert isinstance(await client.result(request_id), Sampled)


async def test_what_was_cancelled_is_not_sampled_any_longer(client: Client, sampler_script: SamplerScript):
    sampler_script.endless = True
    request_id = await client.submit(sampling_params={"max_tokens": 400})
    while not sampler_script.requests:  # noqa: ASYNC110 - nothing signals this
        await asyncio.sleep(0.01)
    await client.futures.cancel(client.team_id, request_id)
    assert await client.result(request_id) == Failed("user", "the request was cancelled")
    async with asyncio.timeout(5):
        while not sampler_script.cancelled:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    with pytest.raises(NotFound):
        await client.futures.cancel(client.team_id, uuid.uuid4())


async def test_work_for_a_client_that_died_ends(client: Client, sampler_script, database, monkeypatch):
    sampler_script.endless = True
    request_id = await client.submit(sampling_params={"max_tokens": 400})
    long_ago = func.clock_timestamp() - timedelta(hours=1)
    async with database.session() as session:
        (await session.get_one(ClientSessionRow, client.session_id)).heartbeat_at = long_ago
    await client.futures._look()
    assert request_id in client.futures.runs.ids, "this server may have been away when its heartbeats came"
    monkeypatch.setattr(client.futures, "_began_at", client.futures._began_at - 1000)
    await client.futures._look()
    assert await client.result(request_id) == Failed("user", "the request was cancelled")
    assert not client.futures.runs.ids


async def test_a_session_reports_its_completions_in_order_and_drops_what_was_fetched(client: Client):
    ids = [await client.submit(sampling_params={"max_tokens": 1}) for _ in range(3)]
    ids.append(await client.submit(sampling_params={"max_tokens": -1}))
    clone = await client.submit(3_000_000_000)
    states, cursor = dict[str, str](), 0
    while len(states) < 4:
        completions, cursor = await client.completed(cursor)
        states |= {one["request_id"]: one["state"] for one in completions}
    assert states == {f"sample-{one.hex}": "finished" for one in ids[:3]} | {f"sample-{ids[3].hex}": "failed"}
    assert await client.completed(cursor, timeout=0) == ([], cursor)
    await client.result(clone)
    assert [one["request_id"] for one in (await client.completed(clone=3))[0]] == [f"sample-{clone.hex}"]
    await client.completed(cursor, timeout=0, retrieved_request_ids=[f"sample-{ids[0].hex}", "op-1"])
    with pytest.raises(Gone):
        await client.result(ids[0])
    assert isinstance(await client.result(ids[1]), Sampled)


async def test_a_team_with_too_many_under_way_is_sent_back_before_its_body_is_read(client: Client, context):
    runs = context[1].sampling_futures.runs
    runs._of_team[client.team_id] = runs._most
    try:
        reply = await client.http.post(f"{ROOT}/asample", content=b"no JSON at all")
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    finally:
        del runs._of_team[client.team_id]


# Processes


async def test_another_process_answers_what_one_left_behind(
    client: Client, context, team, database_url: str, tmp_path: Path, sampler_script: SamplerScript
):
    """The first server dies with a request under way; whoever asks the second has it sampled again."""
    sampler_script.endless = True
    app = create_app(ServerSettings(database_url, f"file://{tmp_path}", "token"))
    async with serving(app) as url, httpx.AsyncClient(base_url=url, headers={"X-API-Key": team.key}) as http:
        dying = Client(http, client.session_id, client.sampler_id, app.state.context.sampling_futures)
        seeded, free = [await dying.submit(seq, sampling_params={"max_tokens": 30, "seed": 1}) for seq in (50, 51)]
        await app.state.context.sampling_futures.close()
    sampler_script.endless, sampler_script.answer = False, None
    one, other = await client.result(seeded), await client.result(free)
    assert isinstance(one, Sampled)
    assert isinstance(other, Sampled)
    again = await client.sample(sampling_params={"max_tokens": 30, "seed": 1})
    assert one.sequences[0].tokens_N.tolist() == again.sequences[0].tokens_N.tolist()


@pytest.mark.parametrize(("num_futures", "num_heartbeats"), [(96, 32), pytest.param(512, 128, marks=pytest.mark.slow)])
async def test_many_futures_and_heartbeats_at_once_do_not_starve_a_pool_of_ten_connections(
    num_futures: int, num_heartbeats: int, client: Client
):
    """Each future is polled by a call of its own."""
    opened = await asyncio.gather(*(client.http.post(f"{ROOT}/create_session", json={}) for _ in range(num_heartbeats)))
    ids = await asyncio.gather(*(client.submit(sampling_params={"max_tokens": 2}) for _ in range(num_futures)))

    async def beat(session_id: str) -> float:
        began = asyncio.get_running_loop().time()
        reply = await client.http.post(f"{ROOT}/session_heartbeat", json={"session_id": session_id})
        assert reply.status_code == 200
        return asyncio.get_running_loop().time() - began

    beats = asyncio.gather(*(beat(reply.json()["session_id"]) for reply in opened))
    outcomes = await asyncio.gather(*(client.result(one, 30) for one in ids))
    assert all(isinstance(outcome, Sampled) for outcome in outcomes)
    assert max(await beats) < 10, "so often does a client send one"
