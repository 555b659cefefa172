"""Calls that train a run (`server.catalog.runs`), looked up by its id. Whatever keeps it from being trained fails their
operation, and not the call."""

from __future__ import annotations

from dataclasses import replace

from server.catalog.runs import RunKey, no_such_run
from server.client_sessions.service import session_finished
from server.principals.callers import Caller
from server.training.admission import TrainedModel, admitted_model, refusal_of
from server.training.collaborators import Training
from server.values.sanitizing import is_storable
from store.admission import find_run_admission


async def trained_run(training: Training, caller: Caller, run_id: str, *, keeps: bool = False) -> TrainedModel:
    """The model of a run. `keeps`: the call adds to what is stored. A pause or a quota is its `refusal`.

    Raises NotFound, SessionFinished, Forbidden, or Unavailable before a worker has loaded the base.
    """
    caller.require("train")
    key = RunKey.of(run_id) if is_storable(run_id) else None
    if key is None:
        raise no_such_run(run_id)
    async with training.database.connection() as connection:
        found = await find_run_admission(connection, caller.team_id, key.session_id, key.index)
    if found is None or found.model_id is None:
        raise no_such_run(run_id)
    model = await admitted_model(training, caller, found, run_id)
    if found.session_is_finished:
        raise session_finished(key.session_id)
    return replace(model, refusal=await refusal_of(training, model, keeps=keeps))
