"""Calls that train a run (`server.catalog.runs`), looked up by its id. Whatever keeps it from being trained fails their
operation, and not the call."""

from __future__ import annotations

from dataclasses import replace

from server.catalog.runs import RunKey, no_such_run
from server.client_sessions.service import session_finished
from server.principals.callers import Caller
from server.training.admission import TrainedModel, open_model, refusal_of
from server.training.collaborators import Training
from server.values.sanitizing import is_storable

_FIND = """
    select m.id, s.finished_at is not null as is_finished
    from models m join client_sessions s on s.id = m.session_id
    where m.session_id = %(session_id)s and m.session_index = %(index)s and m.team_id = %(team_id)s
        and m.removed_at is null
"""


async def trained_run(training: Training, caller: Caller, run_id: str, *, keeps: bool = False) -> TrainedModel:
    """The model of a run. `keeps`: the call adds to what is stored. A pause or a quota is its `refusal`.

    Raises NotFound, SessionFinished, Forbidden, or Unavailable before a worker has loaded the base.
    """
    key = RunKey.of(run_id) if is_storable(run_id) else None
    if key is None:
        raise no_such_run(run_id)
    values = {"session_id": key.session_id, "index": key.index, "team_id": caller.team_id}
    async with training.database.connection() as connection:
        row = await (await connection.execute(_FIND, values)).fetchone()
    if row is None:
        raise no_such_run(run_id)
    if row.is_finished:
        raise session_finished(key.session_id)
    model = await open_model(training, caller, str(row.id))
    return replace(model, refusal=await refusal_of(training, model, keeps=keeps))
