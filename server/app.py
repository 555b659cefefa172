"""The control plane as one ASGI app on one origin: all the SDK's base URLs may point here."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Mount

from server.background.clock_steps import dating_anew
from server.background.closing_rollouts import closing_rollouts
from server.background.environment_sessions import keeping_sessions
from server.background.garbage_collection import collecting_garbage
from server.background.lost_runners import taking_back_from_lost_runners
from server.background.managing_runs import managing_runs
from server.background.missing_numbers import giving_up_missing_numbers
from server.background.reading_texts import reading_texts
from server.background.replicas import counting_replicas
from server.background.trainer_launchers import launching_trainers
from server.guard.watch import guarding
from server.http import health, scaling
from server.http import metrics_page as metrics
from server.http.access_log import AccessLog
from server.http.context import open_context
from server.http.draining import Draining
from server.http.errors import install_error_handlers
from server.http.problem import Problem
from server.http.protocol import Protocol, serve_protocols
from server.http.request_body import SealedBodies, opened_to_anybody
from server.http.request_metrics import MeasuredRequests
from server.metrics.instruments import ServerMetrics
from server.metrics.workers import count_process
from server.pages.protocol import PAGES
from server.process.settings import ServerSettings
from server.process.shutdown import Shutdown
from server.protocols.anthropic.protocol import ANTHROPIC
from server.protocols.gemini.protocol import GEMINI
from server.protocols.hud.protocol import HUD
from server.protocols.openai.protocol import OPENAI
from server.protocols.openai.responses.protocol import RESPONSES
from server.protocols.openai.shared.errors import openai_error
from server.protocols.runner.protocol import RUNNER
from server.protocols.tinker.protocol import TINKER

_DESCRIPTION = "Self-hosted GRPO training: catalog, training API and inference gateway."

OPERATIONS = Protocol((health.router, metrics.router, scaling.router))
PROTOCOLS = (PAGES, OPERATIONS, OPENAI, RESPONSES, ANTHROPIC, GEMINI, HUD, TINKER, RUNNER)
"""Where paths are shared, pages come first: they leave to the others whatever carries a key."""


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
                    counting_replicas(context.background, context.listener.presence, share),
                    dating_anew(context.background),
                    giving_up_missing_numbers(context.background, settings.training_limits.missing_number_s),
                    taking_back_from_lost_runners(context.background, counted),
                    guarding(replace(context.heads, database=context.background), settings.guard),
                    keeping_sessions(context.tunnels),
                    reading_texts(settings.database_url, context.blobs),
                    managing_runs(context.training, context.sampling, context.heads),
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
    install_error_handlers(app, unrouted=openai_error)  # OpenAI's clients ask for much that is not served here
    serve_protocols(app, PROTOCOLS)
    return app
