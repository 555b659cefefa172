"""Sums a held-out evaluation up: a score of the model's evals, and of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from uuid import UUID

from sqlalchemy import func, select

from server.evals.jobs import ScoredCheckpoint, keep_score
from server.runs.events import add_event
from server.runs.loop.failures import RunFailed
from server.runs.loop.grouping import refuse_failures
from server.runs.loop.pins import pin
from server.runs.loop.scores import scores_since_resumed
from server.runs.loop.services import LeasedRun
from server.runs.loop.stopping import drops_in_a_row
from server.runs.places import Place
from server.runs.rollout_states import RolloutState
from store.notify import GUARD_DUE, notify_async
from store.tables import JobRow, RunStepRow


async def conclude_evaluation(
    leased: LeasedRun, row: RunStepRow, places: Sequence[Place], states: Mapping[UUID, RolloutState]
) -> None:
    """The mean reward of the rollouts that completed. Raises RunFailed when too many have failed."""
    ended = [states[place.trace_id] for place in places]
    rewards = [state.reward for state in ended if state.is_graded and state.reward is not None]
    failed = [state for state in ended if not state.is_graded]
    refuse_failures(leased, f"the evaluation after step {row.step}", len(places), failed)
    if not rewards:
        raise RunFailed(f"no rollout of the evaluation after step {row.step} has a reward")
    async with leased.lease.writing() as (session, run):
        query = select(RunStepRow).where(RunStepRow.run_id == run.id, RunStepRow.step == row.step)
        kept = await session.scalar(query.where(RunStepRow.kind == row.kind))
        if kept is None or kept.generation != row.generation:
            return
        assert run.held_out_job_id is not None
        score = fmean(rewards)
        now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
        kept.phase, kept.score, kept.rolled_out_at, kept.ended_at = "done", score, now, now
        kept.checkpoint_id = kept.policy_checkpoint_id
        scores = [*await scores_since_resumed(session, run), score]
        kept.metrics = {
            "num_rollouts": len(rewards),
            "num_errors": len(failed),
            "num_tokens": sum(state.num_tokens for state in ended),
            "rollout_s": (now - kept.began_at).total_seconds(),
            "drops": drops_in_a_row(scores, leased.stop.min_delta),
        }
        run.held_out_score = score
        if run.best_held_out_score is None or score >= run.best_held_out_score:  # of equal ones the one that saw most
            run.best_held_out_score, run.best_checkpoint_id = score, kept.checkpoint_id
        # Locked before its score is written, as by whoever scores jobs (`server.evals.jobs`), who then leaves it out.
        job = await session.get_one(JobRow, (run.team_id, run.held_out_job_id), with_for_update=True)
        job.scored_at = now
        details = {"run": str(run.id), **({"failed": len(failed)} if failed else {})}
        await keep_score(session, ScoredCheckpoint(run.model_id, kept.checkpoint_id), job, rewards, False, details)
        if run.best_checkpoint_id == kept.checkpoint_id:
            await pin(session, kept.checkpoint_id)
        await notify_async(session, GUARD_DUE, run.model_id.hex)
        said = f"held out after step {row.step}: {score:.4f} ({len(rewards)} rollouts"
        said += f", {len(failed)} failed)" if failed else ")"
        checkpoint = str(kept.checkpoint_id) if kept.checkpoint_id else None
        await add_event(session, run, "eval", said, {"step": row.step, "score": score, "checkpoint_id": checkpoint})
