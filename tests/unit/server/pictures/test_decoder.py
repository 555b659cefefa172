"""Decoding in processes of their own: whatever they meet, the server goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.pictures.decoder import PictureDecoder
from server.pictures.decoding import canonical
from tests.unit.server.pictures.drawn import bomb, encoded, gradient, png
from wire.errors import InvalidRequest, TooLarge, Unavailable
from wire.pictures import PictureLimits

LIMITS = PictureLimits()


@contextlib.asynccontextmanager
async def decoding(limits: PictureLimits = LIMITS, **options: float) -> AsyncGenerator[PictureDecoder]:
    decoder = PictureDecoder(limits, **options)
    try:
        yield decoder
    finally:
        await decoder.close()


def contents(pid: int, name: str) -> bytes:
    return Path("/proc", str(pid), name).read_bytes()


def status(pid: int, name: str) -> int:
    lines = contents(pid, "status").decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


async def test_it_says_what_the_decoding_says():
    data = encoded(gradient(), "JPEG")
    async with decoding() as decoder:
        found = await decoder.decode(data)
        expected = canonical(data, LIMITS)
        assert (found.png, found.width, found.height) == (expected.png, expected.width, expected.height)
        assert max((await decoder.decode(data, longest_side=10)).png[16:24]) == 10
        with pytest.raises(InvalidRequest, match="is no picture that is read here"):
            await decoder.decode(b"<svg/>")
        with pytest.raises(TooLarge, match="pixels"):
            await decoder.decode(bomb(7000))


async def test_many_at_once_are_each_right():
    async with decoding() as decoder:
        sizes = [(20 + number, 30) for number in range(24)]
        found = await asyncio.gather(*(decoder.decode(encoded(gradient(*size), "BMP")) for size in sizes))
        assert [(one.width, one.height) for one in found] == sizes
        assert len(decoder.pids) == 2


async def test_a_process_that_is_killed_is_replaced():
    async with decoding() as decoder:
        await decoder.decode(encoded(gradient()))
        before = decoder.pids
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        for _ in range(3):
            assert (await decoder.decode(encoded(gradient()))).width == 40
        assert not set(decoder.pids) & set(before)


async def test_a_process_that_is_killed_over_a_picture_tries_once_more():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (2000, 1500, 3), np.uint8))
    async with decoding() as decoder:
        await decoder.decode(encoded(gradient()))
        (pid,) = decoder.pids
        os.kill(pid, signal.SIGSTOP)
        waiting = asyncio.ensure_future(decoder.decode(encoded(noise, "BMP")))
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        assert (await waiting).width == 1500


async def test_a_picture_over_which_the_process_ends_is_refused(monkeypatch: pytest.MonkeyPatch):
    async with decoding() as decoder:
        monkeypatch.setattr("server.pictures.decoder._Child._exchange", _dies)
        with pytest.raises(InvalidRequest, match="ended over it"):
            await decoder.decode(encoded(gradient()))


def _dies(*_):
    raise EOFError


async def test_a_picture_that_takes_too_long_is_refused_and_the_next_one_is_not():
    async with decoding(patience_s=2) as decoder:
        await decoder.decode(encoded(gradient()))
        (pid,) = decoder.pids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(InvalidRequest, match="to decode"):
            await decoder.decode(encoded(gradient(), "BMP"))
        assert pid not in decoder.pids


async def test_memory_is_bounded_and_given_back():
    """40 million pixels are within the limits: no process is larger than its bound, and none stays large."""
    largest = encoded(Image.new("RGBA", (8000, 5000), (1, 2, 3, 4)), compress_level=1)
    async with decoding() as decoder:
        found = await decoder.decode(largest)
        assert (found.width, found.height) == (8000, 5000)
        (pid,) = decoder.pids
        peak = status(pid, "VmHWM")
        assert peak < 1536 * 1024
        await decoder.decode(encoded(gradient()))
        assert status(decoder.pids[0], "VmRSS") < 200 * 1024


async def test_a_server_that_stops_says_so():
    decoder = PictureDecoder(LIMITS)
    await decoder.decode(encoded(gradient()))
    (pid,) = decoder.pids
    os.kill(pid, signal.SIGSTOP)
    waiting = asyncio.ensure_future(decoder.decode(encoded(gradient(), "BMP")))
    await asyncio.sleep(0.1)
    await decoder.close()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_the_process_has_bounds_and_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADWAY_SAMPLER_TOKEN", "secret-of-ours")
    async with decoding() as decoder:
        await decoder.decode(png(1, 1, (b"IDAT", b"x\x9cc\x00\x00\x00\x04\x00\x01")))
        (pid,) = decoder.pids
        assert b"secret-of-ours" not in contents(pid, "environ")
        soft = {line[:26].strip(): line[26:].split()[0] for line in contents(pid, "limits").decode().splitlines()}
        assert soft["Max address space"] == str(1536 * 1024**2)
        assert (soft["Max file size"], soft["Max core file size"]) == ("0", "0")
        assert 10 <= int(soft["Max cpu time"]) < 20
