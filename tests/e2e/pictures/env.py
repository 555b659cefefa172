"""An environment whose tool answers with as much as a screenshot, over MCP; and tasks that fail as environments do."""

import asyncio
import os
import socket

import uvicorn
from fastmcp import FastMCP
from hud import Environment
from hud.capabilities import Capability

env = Environment(name="Test_Pictures")
tools = FastMCP("pictures")
serving: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []


@env.template(description="Look at a picture; the answer is its size.")
async def look(size: int):
    """Reward 1.0 for the right size."""
    answer = yield f"How large is the picture of size {size}?"
    yield 1.0 if str(answer or "").strip() == f"{size} {os.environ.get('GREETING', '')}".strip() else 0.0


@env.template(description="Ends with its environment.")
async def die():
    yield "What now?"
    os._exit(3)


@tools.tool(description="A picture.")
def picture(size: int) -> str:
    """So many characters."""
    return "x" * size


@env.initialize
async def serve_tools() -> None:
    """The tools on a free port of this machine."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    app = tools.http_app(stateless_http=True, json_response=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serving.append((server, asyncio.create_task(server.serve(sockets=[listening]))))
    env.add_capability(Capability.mcp(name="tools", url=f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"))
