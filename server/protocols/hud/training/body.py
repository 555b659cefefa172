"""Reading a training batch while it streams in, within `Limits.training_body_bytes` and `Limits.batch_tokens`; its
lists of numbers and pictures never become Python objects (`server.uploads.json_scanner`)."""

from __future__ import annotations

import asyncio
from typing import NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from server.http.disconnects import body_chunks
from server.process.settings import Limits
from server.uploads.json_scanner import JsonScanner
from server.values.validation_messages import first_problem
from server.values.whole_numbers import whole_number
from wire.errors import InvalidRequest, TooLarge
from wire.process.off_loop import off_loop

RequestT = TypeVar("RequestT", bound=BaseModel)

_SCAN_BYTES = 1 << 20
_MOST_OBJECTS = 2_000_000
"""In what remains: each takes fifty times the bytes that it is written in."""


async def read_request(
    request: Request, kind: type[RequestT], limits: Limits, max_picture_bytes: int
) -> tuple[RequestT, int]:
    """The request body as `kind`, and how many bytes it had. max_picture_bytes: of all pictures in it, equal ones once.

    Raises TooLarge as soon as a limit is passed (the HTTP server throws away what still comes), InvalidRequest with
    one sentence for whatever else is wrong.
    """
    scanner = JsonScanner(limits.batch_tokens, max_picture_bytes)
    scan_bytes = min(_SCAN_BYTES, 2 * limits.batch_tokens)  # so many tokens have no fewer bytes
    buffer, received = bytearray(), 0
    if (announced := _announced_bytes(request)) > limits.training_body_bytes:
        raise _too_many_bytes(limits, announced)
    async for chunk in body_chunks(request, "the batch"):
        received += len(chunk)
        if received > limits.training_body_bytes:
            raise _too_many_bytes(limits, received)
        buffer += chunk
        if len(buffer) >= scan_bytes:
            await asyncio.to_thread(scanner.feed, bytes(buffer))
            buffer.clear()
    return await off_loop(received, _parse, scanner, bytes(buffer), kind), received


def _parse(scanner: JsonScanner, last: bytes, kind: type[RequestT]) -> RequestT:
    scanner.feed(last)
    rest = scanner.finish()
    if rest.count(b"{") + rest.count(b"[") > _MOST_OBJECTS:
        raise TooLarge(f"the batch holds more than {_MOST_OBJECTS} objects and lists; send it in smaller batches")
    try:
        return kind.model_validate_json(rest, context=scanner.arrays | scanner.blobs)
    except ValidationError as error:
        _refuse(error)


def _refuse(error: ValidationError) -> NoReturn:
    problems = error.errors(include_url=False, include_input=False, include_context=True)
    for problem in problems:
        # The tag of a union is no part of what the client wrote.
        problem["loc"] = tuple(part for part in problem["loc"] if part not in ("trace id", "trajectory"))
    raise InvalidRequest(first_problem(problems)) from None


def _announced_bytes(request: Request) -> int:
    return whole_number(request.headers.get("content-length", "")) or 0


def _too_many_bytes(limits: Limits, received: int) -> TooLarge:
    return TooLarge(
        f"the batch is larger than {limits.training_body_bytes} bytes, the most this server takes at once "
        f"({received} came); send it in smaller batches (gradients accumulate over calls)"
    )
