"""An agent process: `python -m runner.agents.host FD`. It imports the SDK once and drives many rollouts in one loop,
as it is bidden over a socket (`runner/agents/messages.py`). It ends when that is closed."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import sys

from pydantic import BaseModel, TypeAdapter

from runner.agents.messages import MAX_LINE_BYTES, Cancel, Drive, Driven, Hello, Settings
from wire.process.lifeline import follow_parent

_PR_SET_DUMPABLE = 4
_MESSAGE: TypeAdapter[Drive | Cancel] = TypeAdapter(Drive | Cancel)


async def serve(channel: socket.socket) -> None:
    """Obey until the other end is closed."""
    reader, writer = await asyncio.open_connection(sock=channel, limit=MAX_LINE_BYTES)
    settings = Settings.model_validate_json(await reader.readline())

    from runner.agents.driving import Driver

    driver = Driver(settings)
    driving: dict[str, asyncio.Task[None]] = {}

    async def say(message: BaseModel) -> None:
        writer.write(message.model_dump_json().encode() + b"\n")
        await writer.drain()

    async def drive(message: Drive) -> None:
        driven: Driven = await driver.drive(message)
        del driving[message.id]
        await say(driven)

    await say(Hello(sdk=driver.sdk_version))
    while line := await reader.readline():
        message = _MESSAGE.validate_json(line)
        if isinstance(message, Drive):
            driving[message.id] = asyncio.create_task(drive(message))
        elif message.id in driving:
            driving[message.id].cancel()


def main() -> None:
    """Entry point."""
    _hide_memory()
    follow_parent()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        asyncio.run(serve(channel))


def _hide_memory() -> None:
    """Other processes of the same user get to see nothing in its folder of /proc, and cannot trace it."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


if __name__ == "__main__":
    main()
