"""Large uploads are read in a process of its own, which may die at any time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.uploads.upload_parser import UploadParser
from tests.unit.server.readings import begin_and_wait, describe, die, fail, nest, refuse
from wire.errors import HeadwayError, InvalidRequest, TooLarge, Unavailable

LARGE = b"x" * 100_000


@pytest.fixture
async def reader() -> AsyncIterator[UploadParser]:
    reader = UploadParser()
    yield reader
    await reader.close()


async def test_no_process_is_started_for_what_is_small(reader):
    assert await reader.read(b"x" * 1000, describe) == (os.getpid(), 1000, set(os.environ))
    pid, length, _ = await reader.read(b"x" * 60_000, describe)
    assert (pid, length) == (os.getpid(), 60_000)
    assert reader.pid is None


async def test_large_uploads_are_read_by_one_other_process(reader, monkeypatch):
    monkeypatch.setenv("HEADWAY_DATABASE_URL", "a secret")
    (one, length, variables), (other, *_) = await asyncio.gather(*(reader.read(LARGE, describe) for _ in range(2)))
    assert one == other == reader.pid != os.getpid()
    assert length == len(LARGE)
    assert not [name for name in variables if name.startswith("HEADWAY_")]


async def test_what_the_largest_took_is_given_back(reader):
    first = (await reader.read(b"x" * (17 * 1024**2), describe))[0]
    assert reader.pid is None
    assert (await reader.read(LARGE, describe))[0] not in (first, os.getpid())


async def test_refusals_cross_over_as_they_are(reader):
    with pytest.raises(TooLarge, match="100000 bytes are more than 7"):
        await reader.read(LARGE, refuse, 7)
    with pytest.raises(HeadwayError, match="ZeroDivisionError"):
        await reader.read(LARGE, fail)
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        await reader.read(LARGE, nest, 5_000)
    pid = reader.pid
    assert (await reader.read(LARGE, describe))[0] == pid, "a refusal costs no process"


async def test_an_upload_over_which_the_process_dies_is_read_again(reader, tmp_path):
    (marks := tmp_path / "marks").touch()
    assert await reader.read(LARGE, die, marks, 1) == len(LARGE)
    assert marks.read_text() == "x"


async def test_an_upload_over_which_it_dies_every_time_is_refused(reader, tmp_path):
    (marks := tmp_path / "marks").touch()
    with pytest.raises(Unavailable, match="nothing was accepted, send it again"):
        await reader.read(LARGE, die, marks, 1000)
    assert await reader.read(LARGE, die, marks, 0) == len(LARGE), "others are still read"


async def test_a_process_that_was_killed_between_two_uploads_is_replaced(reader):
    first = (await reader.read(LARGE, describe))[0]
    os.kill(first, signal.SIGKILL)
    assert (await reader.read(LARGE, describe))[0] not in (first, os.getpid())


async def test_closing_does_not_wait_for_an_upload(reader, tmp_path):
    mark = tmp_path / "mark"
    reading = [asyncio.create_task(reader.read(LARGE, begin_and_wait, mark)) for _ in range(2)]
    while not mark.exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)
    await asyncio.wait_for(reader.close(), 30)
    first, waiting = await asyncio.gather(*reading, return_exceptions=True)
    assert isinstance(first, Unavailable)
    assert isinstance(waiting, asyncio.CancelledError | Unavailable)
    assert reader.pid is None


async def test_a_client_that_leaves_costs_no_answer_of_another(reader, tmp_path):
    mark = tmp_path / "mark"
    leaving = asyncio.create_task(reader.read(LARGE, die, mark, 0))  # fails: there is no such file
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await reader.read(LARGE + b"x", describe))[1] == len(LARGE) + 1


def test_it_ends_with_a_server_that_is_killed():
    script = """
import asyncio, os, signal
from server.uploads.upload_parser import UploadParser
from tests.unit.server.readings import describe

pid, *_ = asyncio.run(UploadParser().read(b"x" * 100_000, describe))
assert pid != os.getpid()
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}  # for what the script imports of the tests
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE) as server:
        _, errors = server.communicate(timeout=60)  # its end is that of all who inherited it
    assert server.returncode == -signal.SIGKILL, errors.decode()
