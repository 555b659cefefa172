"""HUD's API, as its SDK and its CLI call it, and what this service adds to it under `/v2`."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.hud import (
    account,
    builds,
    evals,
    evalsets,
    guard,
    hosted_rollouts,
    jobs,
    models,
    pictures,
    registry,
    runners,
    runtime,
    tasksets,
    team,
    trace_notes,
    traces,
    trainability,
    training_jobs,
    transfers,
)
from server.protocols.hud.admin import router as admin
from server.protocols.hud.runs import endpoints as runs
from server.protocols.hud.training import endpoints as training

HUD = Protocol(
    (
        account.router,
        models.router,
        models.legacy,
        jobs.router,
        transfers.router,  # before traces, whose ids its names are not
        traces.router,
        pictures.router,
        trace_notes.router,
        tasksets.router,
        runs.router,
        builds.router,
        builds.legacy,
        registry.router,
        registry.legacy,
        runtime.router,
        hosted_rollouts.router,
        runners.router,
        team.router,
        admin.router,
        evals.router,
        guard.router,
        trainability.router,
        training_jobs.router,
        evalsets.router,
    ),
    first=(training.router,),
)
