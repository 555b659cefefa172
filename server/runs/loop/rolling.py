"""The rollouts of a step: submitted as there is room, tried again where they fail, summed up when all have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select

from server.hosted_rollouts.submissions import RunPlace, Submission
from server.hosted_rollouts.submitting import submit_in
from server.runs.loop.evaluating import conclude_evaluation
from server.runs.loop.grouping import conclude_rollouts
from server.runs.loop.services import LeasedRun
from server.runs.places import Place, places_of, with_another_try
from server.runs.rollout_states import RolloutState, states_of
from store.tables import RunStepRow


@dataclass(frozen=True, slots=True)
class RolloutLook:
    """How a step's rollouts stand. to_try_again: those that failed and have tries left; to_submit: not yet placed."""

    places: Sequence[Place]
    states: Mapping[UUID, RolloutState]
    to_try_again: Sequence[Place]
    to_submit: Sequence[Place]
    num_open: int


async def look_at(leased: LeasedRun, row: RunStepRow) -> RolloutLook:
    """Two reads at most."""
    places = places_of(row, leased.group_size(row), leased.config.seed, leased.tasks_of(row))
    async with leased.lease.database.session() as session:
        states = await states_of(session, leased.id, [place.trace_id for place in places])
    failed = list[Place]()
    for place in places:
        state = states.get(place.trace_id)
        if state is not None and state.has_ended and not is_usable(row, state):
            failed.append(place)
    return RolloutLook(
        places,
        states,
        [place for place in failed if place.number < leased.config.rollout_tries],
        [place for place in places if place.trace_id not in states],
        sum(not state.has_ended for state in states.values()),
    )


def is_usable(row: RunStepRow, state: RolloutState) -> bool:
    """Of a rollout that has ended: for training it needs tokens, for an evaluation a grade is enough."""
    return state.is_trainable if row.kind == "train" else state.is_graded


async def advance_rollouts(leased: LeasedRun, row: RunStepRow, look: RolloutLook, room: int) -> int:
    """Submit as many as there is room for, failed ones in new tries; or sum up. How many were submitted.

    Raises RunFailed when too many have failed for good; what `submit_in` raises when the environment is gone.
    """
    if look.to_try_again or look.to_submit:
        return await _submit(leased, row, look, room) if room > 0 else 0
    if look.num_open == 0:
        await (conclude_rollouts if row.kind == "train" else conclude_evaluation)(leased, row, look.places, look.states)
    return 0


async def _submit(leased: LeasedRun, row: RunStepRow, look: RolloutLook, room: int) -> int:
    again = look.to_try_again[:room]
    first = look.to_submit[: room - len(again)]
    async with leased.lease.writing() as (session, run):
        kept = await session.scalar(_row(row).with_for_update())
        if kept is None or kept.generation != row.generation or run.state == "cancelling":
            return 0
        for place in again:
            by_itself = look.states[place.trace_id].ended_by_itself
            kept.chosen = with_another_try(kept.chosen, place, ended_by_itself=by_itself)
        await session.flush()
        positions = {place.position for place in (*again, *first)}
        places = places_of(kept, leased.group_size(kept), leased.config.seed, leased.tasks_of(kept))
        job_id = run.job_id if kept.kind == "train" else run.held_out_job_id
        assert job_id is not None
        for place in places:
            if place.position in positions:
                where = RunPlace(run.id, kept.step, "train" if kept.kind == "train" else "held_out", place.position)
                await submit_in(session, leased.caller, submission_of(leased, kept, place, job_id), where)
    return len(positions)


def submission_of(leased: LeasedRun, row: RunStepRow, place: Place, job_id: UUID) -> Submission:
    """A rollout as it is handed to runners. What a task says of its agent holds where the run says nothing."""
    task = place.task
    return Submission(
        trace_id=place.trace_id,
        job_id=job_id,
        environment=task.environment,
        task=task.id,
        agent_type="openai_compatible",
        agent_config={**task.agent_config, **_agent_config(leased, row, place)},
        args=dict(task.args),
        slug=task.slug,
        group_id=place.group_id.hex,
        verifier=dict(task.verifier) if task.verifier is not None else None,
        runtime_config=dict(task.runtime_config) if task.runtime_config is not None else None,
        timeout_s=leased.config.rollout_timeout_s,
    )


def _agent_config(leased: LeasedRun, row: RunStepRow, place: Place) -> dict[str, Any]:
    is_training = row.kind == "train"
    return {
        "model": leased.slug,
        "max_steps": leased.config.max_turns,
        "auto_respond": False,
        "completion_kwargs": {
            "temperature": leased.config.temperature if is_training else 0.0,
            "max_tokens": leased.config.max_tokens,
            "seed": place.seed,
            "extra_body": {"return_token_ids": True},
        },
    }


def _row(row: RunStepRow):
    same = RunStepRow.run_id == row.run_id, RunStepRow.step == row.step, RunStepRow.kind == row.kind
    return select(RunStepRow).where(*same)
