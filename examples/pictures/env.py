"""Pictures as a HUD environment: the question comes without one, and the tool `look`, served over MCP, returns it.

A rollout has an environment of its own, as in `examples/guessing`: the tool shows the picture of the rollout.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from drawing import QUESTION, Drawing, score
from fastmcp import FastMCP
from fastmcp.utilities.types import Image
from hud import Environment
from hud.capabilities import Capability

env = Environment(name="pictures")
tools = FastMCP("pictures")
drawings: list[Drawing] = []  # the picture of this rollout is the last one
serving: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []


@env.template(description="Look, and read the two digits; the answer is the digits alone.")
async def read(number: int, seed: int) -> AsyncGenerator[Any, Any]:
    """Reward 1.0 for exactly the two digits, else 0.0."""
    drawing = Drawing(number, seed)
    drawings.append(drawing)
    answer = yield QUESTION
    yield score(drawing, answer)


@tools.tool(description="Look.")
def look() -> Image:
    """What is on the screen."""
    return Image(data=drawings[-1].png(), format="png")


@env.initialize
async def serve_tools() -> None:
    """The tools on a free port of this machine; the SDK's tunnel carries the agent's connections to it."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # from now on connections wait until the server takes them
    app = tools.http_app(stateless_http=True, json_response=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serving.append((server, asyncio.create_task(server.serve(sockets=[listening]))))
    env.add_capability(Capability.mcp(name="tools", url=f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"))


@env.shutdown
async def stop_tools() -> None:
    """End what `serve_tools` began."""
    for server, task in serving:
        server.should_exit = True
        await task
