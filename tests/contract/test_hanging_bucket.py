"""A server whose blobs lie in a bucket that takes connections and answers nothing."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from server.app import create_app
from server.process.settings import ServerSettings
from server.sampling.recorder import Recorder
from server.sampling.recorder import Served as ServedCompletion
from store.blob_stores import open_blob_store
from store.blob_stores.threads import BlobThreads, ThreadedBlobs
from store.rollouts import NewSample
from store.rollouts.reading import read_rollouts
from tests.contract.conftest import batch, num_operations, serving
from tests.contract.test_pages import signed_in
from tests.flaky_proxy import FlakyProxy, flaky_proxy
from tests.object_store import ObjectStore
from wire.trajectories import Turn

THREADS = 2


@pytest.fixture
def proxy(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyProxy]:
    with flaky_proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy
        proxy.goes_on.set()


@pytest.fixture
async def app(database_url: str, s3: ObjectStore, proxy: FlakyProxy, tmp_path) -> AsyncIterator[Any]:
    """Of a server with few threads for blobs, that waits little for one."""
    app = create_app(ServerSettings(database_url, s3.url(tmp_path), "token"))
    async with serving(app) as url:
        app.state.url = url
        app.state.context.blobs.threads.close()
        app.state.context.blobs.threads = BlobThreads(threads=THREADS, patience_s=0.2)
        yield app


@asynccontextmanager
async def client(app: Any, team: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=app.state.url, headers=team.http.headers, timeout=60, trust_env=False, verify=False
    ) as http:
        yield http


LINES = json.dumps({"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}).encode()


async def upload(http: httpx.AsyncClient) -> httpx.Response:
    """Which is a blob, however small it is."""
    file = {"file": ("lines.jsonl", LINES, "application/jsonl")}
    return await http.post("/v1/files", data={"purpose": "fine-tune"}, files=file)


async def test_what_needs_no_blob_goes_on_and_what_does_is_refused_at_once(app, proxy, team, model):
    proxy.trouble = lambda method, path: "hang"
    async with client(app, team) as http, asyncio.timeout(50):
        hanging = [asyncio.create_task(upload(http)) for _ in range(THREADS)]
        while len(proxy.requests) < THREADS:  # noqa: ASYNC110 - it happens in the proxy
            await asyncio.sleep(0.02)
        refused = await asyncio.gather(*(upload(http) for _ in range(8)))
        assert {reply.status_code for reply in refused} == {503}
        assert all(int(reply.headers["retry-after"]) > 0 for reply in refused)
        assert "nothing was accepted" in refused[0].text

        assert (await http.get("/readyz/server")).status_code == 200
        small = await http.post(f"/v1/models/{model['id']}/train/forward-backward", json=batch())
        assert small.status_code == 200, small.text
        trace, body = uuid.uuid4(), {"model": model["model_name"], "messages": [{"role": "user", "content": "1+1?"}]}
        chat = await http.post("/chat/completions", json=body, headers={"Trace-Id": trace.hex})
        assert chat.status_code == 200, chat.text
        assert (await http.get(f"/v2/traces/{trace}")).json()["flags"] == [], "it was recorded, and can be read"
        assert app.state.context.sampling.recorder.num_lost == 0

        proxy.trouble = lambda method, path: None
        proxy.goes_on.set()
        for reply in (*await asyncio.gather(*hanging), await upload(http)):
            assert reply.status_code == 200, reply.text
            assert (await http.get(f"/v1/files/{reply.json()['id']}/content")).content == LINES


async def test_the_system_page_says_what_lies_in_an_object_store_and_not_in_which(app, team):
    async with signed_in(app.state.url, team.key) as browser:
        page = (await browser.get("/system")).text
    assert "<span>Requests and answers</span>" in page
    assert "in an object store" in page
    assert "s3://" not in page


async def test_the_first_calls_are_refused_while_they_hang_and_a_call_that_is_sent_again_is_carried_out_once(
    app, proxy, team, model, database, monkeypatch
):
    """Bounded by less than a client's patience, whatever the requests of the bucket wait for."""
    blobs = app.state.context.blobs
    blobs.threads.close()
    blobs.threads = BlobThreads(blobs.answers, slow_s=0.2, answer_s=0.2)
    path, headers = f"/v1/models/{model['id']}/train/forward-backward", {"Idempotency-Key": "once"}
    proxy.trouble = lambda method, path: "hang"
    async with client(app, team) as http, asyncio.timeout(50):
        with monkeypatch.context() as patch:
            for module in ("server.training.operations", "store.oplog.append"):
                patch.setattr(f"{module}.INLINE_BYTES", 64)
            refused = await asyncio.gather(upload(http), http.post(path, json=batch(), headers=headers))
        assert [reply.status_code for reply in refused] == [503, 503], [reply.text for reply in refused]
        assert all(int(reply.headers["retry-after"]) > 0 for reply in refused)
        assert not proxy.goes_on.is_set(), "nobody let them go"
        assert await num_operations(database, model["id"]) == 0
        again = await http.post(path, json=batch(), headers=headers)  # which fits into a row this time
        assert again.status_code == 200, again.text
        assert await num_operations(database, model["id"]) == 1

        proxy.trouble = lambda method, path: None
        proxy.goes_on.set()
        reply = refused[0]
        while reply.status_code == 503:
            reply = await upload(http)
        assert reply.status_code == 200, reply.text


class InThreads(ThreadedBlobs):
    def __init__(self, url: str, threads: BlobThreads) -> None:
        store = open_blob_store(url)
        self.put, self.get, self.threads = store.put, store.get, threads


async def test_a_completion_whose_record_needs_the_bucket_goes_out_and_counts_as_lost(
    database, proxy, s3, team, model, tmp_path
):
    trace = uuid.uuid4()
    await team.http.post(f"/v2/trace/{trace}/enter", json={})
    async with database.connection() as connection:
        found = await connection.execute(b"select team_id from traces where id = %(id)s", {"id": trace})
        team_id = (await found.fetchone()).team_id
    random = np.random.default_rng(0)
    ids, logprobs = random.integers(0, 2**30, 40_000, np.int32), random.random(40_000, np.float32)
    turn = Turn(ids[:1], ids, logprobs)
    blobs = InThreads(s3.url(tmp_path), BlobThreads(threads=THREADS))
    recorder = Recorder(database, blobs, patience_s=0.3)
    recorder.start()
    large = ServedCompletion(team_id, trace, "m", 160_000, lambda: [NewSample(team_id, trace, turn)])
    small = ServedCompletion(team_id, uuid.uuid4(), "m", 0, list)
    proxy.trouble = lambda method, path: "hang"
    async with asyncio.timeout(40):
        await asyncio.gather(recorder.keep(large), recorder.keep(small))
        assert (recorder.num_recorded, recorder.num_lost) == (1, 1)
        proxy.trouble = lambda method, path: None
        proxy.goes_on.set()
        recorder.patience_s = 30
        await recorder.keep(large)
    await recorder.close()
    assert (recorder.num_recorded, recorder.num_lost) == (2, 1)
    (rollout,) = (await read_rollouts(database, blobs, team_id, [trace])).values()
    assert [list(one.turn.output_ids) for one in rollout.others] == [list(ids)]
