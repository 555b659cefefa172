"""The steps of a run as they stand: which rollouts run where, and what they wait for."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.places import Place, places_of
from server.runs.rollout_states import RolloutState, states_of
from server.runs.settings import HeldOut, RunConfig
from server.runs.tasks import Task, read_tasks
from server.runs.types import RolloutPlace, RunStep
from store.tables import RunRow, RunStepRow

_PHASES = {"training": "its training calls", "promoting": "the samplers to load the new weights"}


async def steps_of(session: AsyncSession, run: RunRow, limit: int) -> list[RunStep]:
    """The newest, newest first. Reads the run's tasks."""
    query = select(RunStepRow).where(RunStepRow.run_id == run.id)
    order = RunStepRow.step.desc(), RunStepRow.kind
    rows = (await session.scalars(query.order_by(*order).limit(limit))).all()
    texts = (await session.execute(select(RunRow.tasks, RunRow.held_out_tasks).where(RunRow.id == run.id))).one()
    tasks = {"train": read_tasks(texts[0] or "[]"), "held_out": read_tasks(texts[1] or "[]")}
    return [await _step(session, run, row, tasks[row.kind]) for row in rows]


async def _step(session: AsyncSession, run: RunRow, row: RunStepRow, tasks: Sequence[Task]) -> RunStep:
    config = RunConfig.model_validate(run.config)
    group_size = config.group_size
    if row.kind == "held_out":
        group_size = HeldOut.model_validate(run.held_out).group_size
    places = places_of(row, group_size, config.seed, tasks) if config.method == "reinforcement" else []
    states = await states_of(session, run.id, [place.trace_id for place in places])
    rollouts = [_rollout(place, states.get(place.trace_id)) for place in places]
    return RunStep(
        step=row.step,
        kind="train" if row.kind == "train" else "held_out",
        phase=row.phase,
        began_at=row.began_at,
        rolled_out_at=row.rolled_out_at,
        ended_at=row.ended_at,
        policy_checkpoint_id=row.policy_checkpoint_id,
        checkpoint_id=row.checkpoint_id,
        chosen=row.chosen["tasks"],
        rollouts=rollouts,
        waits_for=_waits_for(run, row, rollouts),
    )


def _rollout(place: Place, state: RolloutState | None) -> RolloutPlace:
    known = {"position": place.position, "task": place.task.slug, "trace_id": place.trace_id, "tries": place.number}
    if state is None:
        return RolloutPlace.model_validate({**known, "trace_id": None, "state": "waiting", "waits_for": "its turn"})
    found = {"attempt": state.attempt, "runner": state.runner, "reward": state.reward}
    if state.has_ended:
        word = "usable" if state.problem is None else "failed"
        return RolloutPlace.model_validate({**known, **found, "state": word, "error": state.problem})
    waits_for = "a runner" if state.placement == "queued" else None if state.is_ready else "its environment"
    if state.placement == "queued" and state.labels:
        waits_for = f"a runner with the labels {', '.join(state.labels)}"
    return RolloutPlace.model_validate({**known, **found, "state": state.placement, "waits_for": waits_for})


def _waits_for(run: RunRow, row: RunStepRow, rollouts: Sequence[RolloutPlace]) -> str | None:
    if row.phase in ("done", "dropped"):
        return None
    if run.waiting_for is not None:
        return run.waiting_for
    if row.phase != "rolling_out":
        return _PHASES[row.phase]
    if row.rolled_out_at is not None:
        return "the step before it"
    open_ones = sum(rollout.state in ("waiting", "queued", "running") for rollout in rollouts)
    return f"{open_ones} of its {len(rollouts)} rollouts"
