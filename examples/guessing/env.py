"""The game as a HUD environment: its one tool is served over MCP, and its state lives as long as the process.

A rollout has an environment of its own: a process where it is deployed, a module that is loaded again with
`LocalRuntime("env.py")`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from fastmcp import FastMCP
from game import PROMPT, Game
from hud import Environment
from hud.capabilities import Capability

env = Environment(name="guessing")
tools = FastMCP("guessing")
games: list[Game] = []  # the game of this rollout is the last one
serving: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []


@env.template(description="Find a number with few guesses; the answer is the number alone.")
async def find(secret: int) -> AsyncGenerator[Any, Any]:
    """Reward 1.0 for exactly the secret, else 0.0."""
    game = Game(secret)
    games.append(game)
    answer = yield PROMPT
    yield game.score(answer)


@tools.tool(description="Guess.")
def guess(number: int) -> str:
    """Which way the secret lies from here."""
    return games[-1].guess(number)


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
