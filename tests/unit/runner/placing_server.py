"""The server's half of `wire/placements.py` in memory: it leases what a test puts there, and notes what it is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from wire.placements import EnvironmentSpec, Kind, Placement
from wire.process.origins import listen

ARCHIVE = b"an archive"


def placement(kind: Kind, timeout_s: float = 30.0, attempt: int = 1) -> Placement:
    """One of an environment whose archive the server has."""
    environment = EnvironmentSpec(
        build_id=uuid.uuid4(),
        name="sums",
        declared_name="sums",
        version=1,
        source="upload",
        archive_digest=hashlib.sha256(ARCHIVE).hexdigest(),
    )
    return Placement(
        placement_id=uuid.uuid4(), kind=kind, attempt=attempt, team="a", timeout_s=timeout_s, environment=environment
    )


@dataclass
class PlacingServer:
    """`refuse_with`: answer whatever has `refuse_what` in its path with this status and code, the next `refuse_times`
    times (None: always)."""

    queue: list[Placement] = field(default_factory=list[Placement])
    calls: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    stop: list[str] = field(default_factory=list[str])
    refuse_with: tuple[int, str] | None = None
    refuse_what: str = ""
    refuse_times: int | None = None
    runner_id: uuid.UUID = field(default_factory=uuid.uuid4)
    origin: str = ""
    archive: bytes = ARCHIVE

    def called(self, what: str) -> list[Any]:
        return [body for name, body in self.calls if name == what]

    async def until(self, what: str, count: int = 1, timeout_s: float = 10.0) -> list[Any]:
        """The bodies of the calls, once there are so many."""
        await _until(lambda: len(self.called(what)) >= count, timeout_s)
        return self.called(what)

    async def until_held(self, count: int, timeout_s: float = 10.0, named: Placement | None = None) -> None:
        """Until a heartbeat names so many placements, this one among them."""

        def is_held(body: Any) -> bool:
            return len(body["held"]) == count and (named is None or str(named.placement_id) in str(body["held"]))

        await _until(lambda: any(map(is_held, self.called("heartbeat")[-1:])), timeout_s)

    async def until_ended(self, placement: Placement, timeout_s: float = 10.0) -> Any:
        """The body of the placement's end."""

        def ends() -> list[Any]:
            return [body for body in self.called("end") if body["placement"] == str(placement.placement_id)]

        await _until(lambda: bool(ends()), timeout_s)
        return ends()[0]

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def refuse(request: Request, call_next: Any) -> Response:  # pyright: ignore[reportUnusedFunction]
            if self.refuse_with is not None and self.refuse_what in request.url.path:
                status, code = self.refuse_with
                if self.refuse_times is not None:
                    self.refuse_times -= 1
                    self.refuse_with = self.refuse_with if self.refuse_times else None
                return JSONResponse({"detail": f"this is {code}", "code": code}, status)
            return await call_next(request)

        @app.post("/runner/register")
        async def register(request: Request) -> Any:  # pyright: ignore[reportUnusedFunction]
            self.calls.append(("register", await request.json()))
            return {"runner_id": str(self.runner_id), "heartbeat_s": 0.05, "lost_after_s": 5}

        @app.post("/runner/{runner}/{what}")
        async def act(request: Request, runner: uuid.UUID, what: str) -> Any:  # pyright: ignore[reportUnusedFunction]
            if runner != self.runner_id:
                return JSONResponse({"detail": "no such runner", "code": "not_found"}, 404)
            body = json.loads(await request.body() or b"{}")
            self.calls.append((what, body))
            if what == "heartbeat":
                return {"stop": self.stop}
            if what == "lease":
                await _until(lambda: bool(self.queue) or runner != self.runner_id, body["wait_s"])
                if runner != self.runner_id:
                    return JSONResponse({"detail": "no such runner", "code": "not_found"}, 404)
                leased = [self.queue.pop(0) for _ in range(min(body["slots"], len(self.queue)))]
                return {"placements": [one.model_dump(mode="json") for one in leased]}
            return {}

        @app.get("/runner/{runner}/builds/{build}/archive")
        async def fetch(runner: str, build: str) -> Response:  # pyright: ignore[reportUnusedFunction]
            self.calls.append(("archive", build))
            return Response(self.archive)

        @app.post("/runner/{runner}/placements/{placement_id}/{what}")
        async def report(  # pyright: ignore[reportUnusedFunction]
            request: Request, runner: uuid.UUID, placement_id: str, what: str
        ) -> Any:
            self.calls.append((what, {"placement": placement_id, **await request.json()}))
            return {"state": "ended"}

        return app


async def _until(is_so: Callable[[], bool], timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def placing_server() -> AsyncGenerator[PlacingServer]:
    state, listening = PlacingServer(), listen("127.0.0.1", 0)
    state.origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(state.app(), log_level="critical", lifespan="off"))
    server.install_signal_handlers = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield state
    finally:
        server.should_exit = server.force_exit = True
        await serving
