"""A vLLM whose engine stands still while its API server goes on saying that it is healthy."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sampler.backends.vllm.backend import VllmBackend
from tests.ports.sampler_backends import ask_backend
from tests.vllm.conftest import START_TIMEOUT_S, load_all

pytestmark = pytest.mark.vllm
PROMPT = [11, 12, 13, 14, 15]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 (nothing signals these)
            await asyncio.sleep(0.1)


def engines_of(server: int) -> list[int]:
    """The processes below vLLM's API server."""
    found = subprocess.run(["pgrep", "-P", str(server)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.kills_vllm
async def test_an_engine_that_stands_still_is_noticed_and_started_again(
    backend: VllmBackend, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    server = backend._server
    monkeypatch.setattr(server, "_settings", dataclasses.replace(server._settings, stalled_s=20.0))
    assert backend.trouble() is None
    url = server.url
    engines = engines_of(server._process.pid)
    assert engines
    for pid in engines:
        os.kill(pid, signal.SIGSTOP)
    assert server._client.is_healthy(url), "its API server notices nothing"
    await until(lambda: backend.trouble() is not None)
    await until(lambda: backend.loaded() == set())
    await until(lambda: backend.trouble() is None)
    assert server.url != url
    await asyncio.to_thread(load_all, backend, adapters)
    answer = await ask_backend(backend, PROMPT, adapter="base", max_tokens=3, ignore_eos=True)
    assert len(answer.ids) == 3
