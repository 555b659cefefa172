"""The control protocol of an environment, as far as its manifest needs it: JSON-RPC in lines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from runner.environments.base import BuildFailed, Session

_MAX_LINE = 16 << 20
_ANSWER_S = 60.0


async def read_manifest(session: Session) -> dict[str, Any]:
    """What it answers to `hello` and `tasks.list`. Raises BuildFailed."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = connection = await session.connect()
            try:
                hello = await _call(connection, 1, "hello")
                listed = await _call(connection, 2, "tasks.list")
                await _call(connection, 3, "bye")
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.LimitOverrunError, ValueError, RecursionError) as error:
        raise BuildFailed(
            f"the environment came up, but does not speak the control protocol of hud 0.6: {error}"
        ) from error
    return {
        "env": hello.get("env"),
        "tasks": _named(listed, "tasks", "id"),
        "capabilities": [_offered(binding) for binding in _named(hello, "bindings", "name")],
    }


async def _call(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], number: int, method: str
) -> dict[str, Any]:
    reader, writer = connection
    writer.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": {}}).encode() + b"\n")
    await writer.drain()
    answer = json.loads(await _line(reader))
    if not isinstance(answer, dict) or not isinstance(answer.get("result"), dict):
        raise BuildFailed(f"the environment refuses {method}: {str(answer)[:500]}")
    return answer["result"]


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        chunk = await reader.read(64 << 10)
        if not chunk:
            raise ConnectionResetError("it closed the connection")
        line += chunk
        if len(line) > _MAX_LINE:
            raise ValueError("its answer is longer than 16 MiB")
    return bytes(line)


def _named(answer: dict[str, Any], key: str, name: str) -> list[dict[str, Any]]:
    rows = answer.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get(name), str) for row in rows):
        raise BuildFailed(f"the environment's {key} are not a list of objects with a {name}")
    return rows


def _offered(binding: dict[str, Any]) -> dict[str, Any]:
    """Without its address and parameters: they are of this one session, and may be keys."""
    return {"name": binding["name"], "protocol": binding.get("protocol")}
