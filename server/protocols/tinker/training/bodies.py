"""Bodies of requests that carry a number: read as a whole, unpacked, and looked at only as far as run and number.

What is in them is checked when the number is known: the client has used it up, so that a body which makes no sense
fails its operation, and not the call.
"""

from __future__ import annotations

from typing import Any

import zstandard
from fastapi import Request
from starlette.requests import ClientDisconnect

from server.http.disconnects import ClientDisconnected
from server.http.request_body import BodyBound, body_will_hold, content_encoding
from server.process.settings import Limits
from server.protocols.tinker.training.passes import json_forms, protobuf
from server.protocols.tinker.training.passes.json_forms import JsonPass
from server.protocols.tinker.training.passes.protobuf import ProtobufPass
from wire.errors import InvalidRequest, TooLarge
from wire.process.off_loop import off_loop

_ZSTD = "zstd"
BATCH = BodyBound(lambda limits: limits.body_bytes, encodings=frozenset({_ZSTD}))


async def read_pass(request: Request, limits: Limits, *, is_forward: bool) -> tuple[ProtobufPass | JsonPass, int]:
    """The gradient pass in a body, and how many bytes it has. Raises InvalidRequest, TooLarge.

    Its arrays are the body's own bytes, so that the request keeps its share of the memory for bodies until it ends.
    """
    content = await _content(request, limits)
    if protobuf.MEDIA_TYPE in request.headers.get("content-type", ""):
        parsed: ProtobufPass | JsonPass = await off_loop(len(content), protobuf.parse_pass, content)
    else:
        parsed = await off_loop(
            len(content), json_forms.parse_pass, content, limits.batch_tokens, is_forward=is_forward
        )
    return parsed, len(content)


async def read_object(request: Request) -> dict[str, Any]:
    """A small body of JSON. Raises InvalidRequest."""
    return json_forms.parse_object(await _received(request))


async def _content(request: Request, limits: Limits) -> bytes:
    content = await _received(request)
    return await _unpacked(request, content, limits.body_bytes) if content_encoding(request) == _ZSTD else content


async def _received(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise ClientDisconnected("the client hung up while it sent its request") from None


async def _unpacked(request: Request, content: bytes, most: int) -> bytes:
    """Raises TooLarge before more than `most` bytes are made, InvalidRequest for what is not zstd."""
    try:
        announced = zstandard.get_frame_parameters(content).content_size
    except zstandard.ZstdError:
        raise InvalidRequest("the body is not compressed with zstd, as its header says") from None
    is_known = announced not in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR)
    if is_known and announced > most:
        raise _too_large(most)
    await body_will_hold(request, announced if is_known else most)
    return await off_loop(
        announced if is_known else most, _decompressed, content, announced if is_known else None, most
    )


def _decompressed(content: bytes, announced: int | None, most: int) -> bytes:
    """All of the body: a part of a message would often be a message too."""
    unpacker = zstandard.ZstdDecompressor()
    try:
        size = _counted(unpacker, content, most) if announced is None else announced
        return unpacker.decompress(content, max_output_size=max(size, 1), allow_extra_data=False)
    except zstandard.ZstdError:
        raise InvalidRequest("the body is not one whole frame of zstd") from None


def _counted(unpacker: zstandard.ZstdDecompressor, content: bytes, most: int) -> int:
    with unpacker.stream_reader(content) as reader:
        size = len(reader.read(most + 1))
    if size > most:
        raise _too_large(most)
    return size


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the request is larger than {most} bytes once it is unpacked, the most this server takes")
