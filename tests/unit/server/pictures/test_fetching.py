"""Pictures are fetched by URL from hosts that an operator names, and never out of the private network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from server.pictures.fetching import fetch
from server.process.settings import PictureSettings
from server.values.addresses import is_public
from wire.errors import InvalidRequest, TooLarge
from wire.pictures import PictureLimits


@contextlib.asynccontextmanager
async def answering(*replies: bytes, pause_s: float = 0.0) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """A port that answers each connection with the next reply; what was asked."""
    rest, heads = iter(replies), list[bytes]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await asyncio.sleep(pause_s)
            writer.write(next(rest))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()


def reply(body: bytes, head: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {head}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


HERE = ("127.0.0.1", "localhost")


async def test_the_body_of_an_allowed_host():
    async with answering(reply(b"picture"), reply(b"again")) as (port, heads):
        settings = PictureSettings(hosts=HERE)
        assert await fetch(settings, "a", f"http://127.0.0.1:{port}/a.png?size=1#top") == b"picture"
        assert await fetch(settings, "a", f"http://localhost:{port}/") == b"again"
    assert heads[0].startswith(b"GET /a.png?size=1 HTTP/1.1\r\n")
    assert f"host: localhost:{port}".encode() in heads[1].lower()
    assert b"cookie" not in heads[0].lower()
    assert b"authorization" not in heads[0].lower()


@pytest.mark.parametrize(
    ("head", "headers", "sentence"),
    [
        ("302 Found", ["Location: http://169.254.169.254/latest/meta-data"], "answered 302"),
        ("404 Not Found", [], "answered 404"),
        ("500 Internal Server Error", [], "answered 500"),
        ("206 Partial Content", [], "answered 206"),
        ("200 OK", [], "empty"),
    ],
)
async def test_answers_that_are_no_picture_are_refused(head: str, headers: list[str], sentence: str):
    async with answering(reply(b"" if sentence == "empty" else b"x", head, *headers)) as (port, heads):
        with pytest.raises(InvalidRequest, match=sentence):
            await fetch(PictureSettings(hosts=HERE), "a", f"http://127.0.0.1:{port}/")
        assert len(heads) == 1, "nothing is followed"


@pytest.mark.parametrize(
    "head", ["HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"]
)
async def test_a_body_is_read_up_to_the_limit(head: str):
    settings = PictureSettings(hosts=HERE, limits=PictureLimits(bytes_each=10_000))
    async with answering(head.encode() + bytes(1_000_000)) as (port, _):
        with pytest.raises(TooLarge, match="10,000"):
            await fetch(settings, "a", f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"])
async def test_a_host_that_speaks_otherwise_is_a_refusal(answer: bytes):
    async with answering(answer) as (port, _):
        with pytest.raises(InvalidRequest, match="did not answer"):
            await fetch(PictureSettings(hosts=HERE), "a", f"http://127.0.0.1:{port}/")


async def test_a_host_that_is_slow_is_a_refusal():
    async with answering(reply(b"late"), pause_s=5) as (port, _):
        with pytest.raises(InvalidRequest, match="within"):
            await fetch(PictureSettings(hosts=HERE, fetch_s=0.2), "a", f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://2130706433:{port}/",
        "http://127.1:{port}/",
        "http://[::ffff:7f00:1]:{port}/",
        "http://127.0.0.1.:{port}/",
        "http://pictures.example@127.0.0.1:{port}/",
        "http://169.254.169.254/latest/meta-data",
        "http://unknown.invalid/",
    ],
)
async def test_no_way_leads_into_the_private_network(url: str):
    async with answering(reply(b"secret")) as (port, heads):
        for hosts in [("pictures.example",), ("localhost", "pictures.example"), ("localhost:9",)]:
            with pytest.raises(InvalidRequest):
                await fetch(PictureSettings(hosts=hosts), "a", url.format(port=port))
        assert not heads


async def test_a_name_that_leads_inside_is_not_followed(monkeypatch: pytest.MonkeyPatch):
    """The name is the operator's, its addresses are whoever's answers for the name."""
    async with answering(reply(b"secret")) as (port, heads):
        for addresses in (["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::ffff:10.0.0.1"], ["fd00::1"]):
            monkeypatch.setattr(socket, "getaddrinfo", _means(addresses))
            with pytest.raises(InvalidRequest, match=f"not fetched from pictures.example:{port}"):
                await fetch(PictureSettings(hosts=("pictures.example",)), "a", f"http://pictures.example:{port}/")
        assert not heads
        monkeypatch.setattr(socket, "getaddrinfo", _means(["127.0.0.1"]))
        settings = PictureSettings(hosts=("pictures.example", "127.0.0.0/8"))
        assert await fetch(settings, "a", f"http://pictures.example:{port}/") == b"secret", "the operator says so"


def _means(addresses: list[str]) -> Any:
    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return resolve


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.1.1", "172.16.0.1", "100.64.0.1", "fd00::1", "64:ff9b::a00:7", "127.0.0.1"]
)
def test_private_addresses_are_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "64:ff9b::5db8:d822"])
def test_public_addresses_are(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.png", "http://a b/", "http://user:secret@example.com/", "https://[::1/"]
)
async def test_what_is_no_url_is_refused(url: str):
    with pytest.raises(InvalidRequest) as caught:
        await fetch(PictureSettings(hosts=("example.com",)), "messages[0].content[1]", url)
    assert str(caught.value).startswith("messages[0].content[1]")
    assert "secret" not in str(caught.value)
