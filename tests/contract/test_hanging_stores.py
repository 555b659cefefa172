"""A store on the network that accepts connections and answers nothing: what does not need it goes on."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.app import create_app
from server.process.settings import ServerSettings
from store.blob_stores.copies import BlobCopies
from store.blob_stores.s3 import S3BlobStore
from store.object_store.bucket import Bucket, connect
from tests.contract.conftest import Team, serving
from tests.object_store import environment

HANGING = 40
MOST_S = 20.0


@asynccontextmanager
async def silent_store(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=2 * HANGING) as listening:
        for name, value in environment(f"http://127.0.0.1:{listening.getsockname()[1]}").items():
            monkeypatch.setenv(name, value)
        yield listening


async def test_calls_that_hang_in_a_blob_store_keep_no_other_work_of_a_server_waiting(
    database_url: str, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with silent_store(monkeypatch) as listening:
        url = f"s3://nobody/{uuid.uuid4().hex}?cache={tmp_path}"
        blobs = S3BlobStore(Bucket("nobody", "", connect(max_attempts=1), of="blob"), BlobCopies(tmp_path, 1))
        async with serving(create_app(ServerSettings(database_url, url, "token"))) as origin:
            hanging = [asyncio.create_task(asyncio.to_thread(blobs.has, "0" * 64)) for _ in range(HANGING)]
            await asyncio.sleep(0)  # they are in threads from here on, or wait for one
            async with asyncio.timeout(MOST_S):
                assert await asyncio.to_thread(str, 1) == "1"
                reply = await team.http.get(f"{origin}/readyz/server")
            assert reply.status_code == 200
            assert not any(task.done() for task in hanging)
            listening.close()  # which resets what it has not accepted
            await asyncio.gather(*hanging, return_exceptions=True)
