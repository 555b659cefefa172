"""The control plane as one ASGI app on one origin: all the SDK's base URLs may point here."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Mount

from server import pages
from server.background.closing_rollouts import closing_rollouts
from server.background.garbage_collection import collecting_garbage
from server.background.replicas import counting_replicas
from server.background.trainer_launchers import launching_trainers
from server.context import open_context
from server.guard.watch import guarding
from server.http import health
from server.http import metrics_page as metrics
from server.http.access_log import AccessLog
from server.http.authentication import CallerDep
from server.http.draining import Draining
from server.http.errors import install_error_handlers
from server.http.problem import Problem
from server.http.request_body import SealedBodies, opened_to_anybody
from server.http.request_metrics import MeasuredRequests
from server.http.routing import KeyedRouter
from server.metrics.instruments import ServerMetrics
from server.metrics.workers import count_process
from server.protocols.hud import account as auth
from server.protocols.hud import evals as evals
from server.protocols.hud import guard as guard
from server.protocols.hud import hosted
from server.protocols.hud import jobs as jobs
from server.protocols.hud import models as models
from server.protocols.hud import tasksets as tasksets
from server.protocols.hud import team as team
from server.protocols.hud import traces as traces
from server.protocols.hud import trainability as trainability
from server.protocols.hud import transfers as transfers
from server.protocols.hud.admin import router as admin
from server.protocols.hud.training import endpoints as training
from server.protocols.openai import endpoints as gateway
from server.settings import ServerSettings
from server.shutdown import Shutdown
from wire.errors import NotFound

_DESCRIPTION = "Self-hosted GRPO training: catalog, training API and inference gateway."

remote = KeyedRouter(tags=["runtime"])


@remote.post("/runtime/sessions", include_in_schema=False)
async def runtime_session(caller: CallerDep) -> None:
    """Remote environments, which this server does not run."""
    raise NotFound("this server runs no environments: give the taskset a runtime of your own, such as a local one")


def create_app(settings: ServerSettings) -> FastAPI:
    """The app; it connects when it starts."""
    counted = ServerMetrics()
    count_process(counted.registry)
    shutdown = Shutdown(settings.stop)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with (
            open_context(settings, counted, shutdown) as context,
            collecting_garbage(settings),
            closing_rollouts(settings),
        ):
            app.state.context = context
            share = context.sampling.limits.share_with
            with launching_trainers(settings):
                async with (
                    counting_replicas(context.background, share),
                    guarding(replace(context.heads, database=context.background), settings.guard),
                ):
                    yield

    # The page at /docs loads nothing from the network.
    app = FastAPIOffline(
        title="Headway",
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        strict_content_type=False,
        responses={"default": {"model": Problem, "description": "A refusal"}},
    )
    for mount in app.routes:
        if isinstance(mount, Mount):
            mount.app = opened_to_anybody(mount.app)
    app.add_middleware(SealedBodies, limits=settings.limits)
    app.add_middleware(Draining, shutdown=shutdown)
    app.add_middleware(AccessLog)
    app.add_middleware(MeasuredRequests, metrics=counted)
    app.state.shutdown = shutdown
    install_error_handlers(app)
    app.include_router(gateway.sampling)  # first: routes are tried in turn, and this is what is asked most
    app.include_router(pages.router)
    rooms = (health, auth, models, training, gateway, jobs, transfers, traces, tasksets, hosted, team, admin, metrics)
    for room in (*rooms, evals, guard, trainability):
        app.include_router(room.router)
    app.include_router(models.legacy)
    app.include_router(remote)
    app.include_router(pages.rest)
    return app
