"""Real samplers that come and go beneath requests and training, down to none and up again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.commands.keys import create_key
from store.database import Database
from tests.contract.conftest import batch
from tests.e2e.trainer_site import SMALL_PASSES, Site

pytestmark = pytest.mark.slow

TOKEN = "a token for scrapes"
NUM_CLIENTS = 4
PATIENCE = ("--sampler-idle-s", "3600", "--sampler-wait-s", "3600")


class ElasticSite(Site):
    """With a server, whose samplers the test starts and ends."""

    def __init__(self, database: Database, url: str, base: Path, folder: Path) -> None:
        super().__init__(database, url, base, folder)
        secrets = {"HEADWAY_SAMPLER_TOKEN": "between planes", "HEADWAY_METRICS_TOKEN": TOKEN}
        self._environment = {**os.environ, **secrets}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.launch_as([sys.executable, "-m", "cli", "server", "--port", str(port)], self._environment, *PATIENCE)
        headers = {"Authorization": f"Bearer {create_key(url, team='reds', name='test', role='member')}"}
        origin = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=origin, headers=headers, timeout=300, trust_env=False)
        self.until(self._answers)

    def sampler(self) -> subprocess.Popen[bytes]:
        return self.launch_as([sys.executable, "-m", "cli", "sampler", "--base", "tiny"], self._environment)

    def scaling(self) -> dict[str, Any]:
        reply = self.http.get("/scaling/samplers/tiny", headers={"Authorization": f"Bearer {TOKEN}"})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def step(self) -> int:
        calls = f"/v1/models/{self.models[0]}/train"
        for call, body in (("forward-backward", batch()), ("optim-step", {"learning_rate": 1e-3})):
            reply = self.http.post(f"{calls}/{call}", json=body)
            assert reply.status_code == 200, reply.text
        return reply.json()["step"]

    def head(self) -> dict[str, Any]:
        return self.http.get(f"/v2/models/{self.models[0]}/head").json()

    def chat(self, **more: Any) -> httpx.Response:
        body = {"model": "one", "messages": [{"role": "user", "content": "12+30=?"}], "max_tokens": 64, **more}
        return self.http.post("/chat/completions", json=body)

    def until(self, holds: Callable[[], bool], timeout_s: float = 300.0) -> float:
        return super().until(holds, timeout_s)

    def close(self) -> None:
        self.http.close()
        super().close()

    def _answers(self) -> bool:
        try:
            return self.http.get("/readyz/server").status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture
def site(database: Database, postgres_url: str, tiny_base: Path, tmp_path: Path) -> Iterator[ElasticSite]:
    site = ElasticSite(database, postgres_url, tiny_base, tmp_path)
    yield site
    site.close()


@contextmanager
def asking(site: ElasticSite, pool: ThreadPoolExecutor) -> Iterator[list[httpx.Response]]:
    """Clients that send one chat after another, every other one streamed, until the block ends; and their replies."""
    over, replies = threading.Event(), list[httpx.Response]()

    def ask(stream: bool) -> None:
        while not over.wait(0.2):
            replies.append(site.chat(stream=stream))

    clients = [pool.submit(ask, bool(number % 2)) for number in range(NUM_CLIENTS)]
    try:
        yield replies
    finally:
        over.set()
    for client in clients:
        client.result()


def is_whole(reply: httpx.Response) -> bool:
    """Whether a chat, streamed or not, was answered to its end."""
    return reply.status_code == 200 and ("data: [DONE]" in reply.text or bool(reply.json()["choices"]))


def test_samplers_come_and_go_and_no_request_and_no_step_is_lost(site: ElasticSite):
    site.start(*SMALL_PASSES)
    assert (site.scaling()["value"], site.scaling()["live"]) == (0, 0)
    for _ in range(2):
        newest = site.step()
    assert site.head()["step"] == newest, "heads move while no sampler lives"
    assert site.scaling()["value"] == 0

    with ThreadPoolExecutor(12) as pool, asking(site, pool) as replies:
        site.until(lambda: site.scaling()["value"] == 1)
        one = site.sampler()
        site.until(lambda: len(replies) >= NUM_CLIENTS)
        assert {reply.headers["x-headway-checkpoint"] for reply in replies} == {site.head()["checkpoint_name"]}

        another = site.sampler()
        site.until(lambda: site.scaling()["live"] == 2)
        one.send_signal(signal.SIGTERM)
        assert one.wait(60) == 0
        another.send_signal(signal.SIGTERM)
        assert another.wait(60) == 0
        assert site.step() == newest + 1
        site.until(lambda: site.scaling()["waiting"] > 0)
        last = site.sampler()
        num_before = len(replies)
        site.until(lambda: len(replies) > num_before + 2 * NUM_CLIENTS)
    assert all(map(is_whole, replies))

    # A notice whose time is over at once: what is under way is sampled anew by another.
    with ThreadPoolExecutor(8) as pool:
        spare = site.sampler()
        site.until(lambda: site.scaling()["live"] == 2)
        under_way = [pool.submit(site.chat, n=16, max_tokens=128) for _ in range(8)]
        time.sleep(0.5)  # for some to be at either
        last.send_signal(signal.SIGTERM)
        last.kill()
        assert all(is_whole(chat.result()) for chat in under_way)
        assert spare.poll() is None
