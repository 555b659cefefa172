"""What has become of a step's rollouts: where they are placed, and what is recorded of them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from store.rollouts.spans import MALFORMED_SAMPLE, PROMPT_CHUNKS, UNKNOWN_PICTURE
from store.rollouts.traces import REWARD, STATUS

_NOT_TRAINABLE = {MALFORMED_SAMPLE, PROMPT_CHUNKS, UNKNOWN_PICTURE}

_STATES = text(f"""
    select h.trace_id, p.state, p.outcome, p.attempt, p.error as placement_error, p.ready_at is not null as is_ready,
        p.labels, r.host, r.pid, {STATUS} as status, {REWARD} as reward, t.error, t.stop_reason, t.evaluation_result,
        t.num_samples, t.num_prompt_tokens + t.num_output_tokens as num_tokens, t.flags
    from hosted_rollouts h
    join placements p on p.id = h.placement_id
    left join runners r on r.id = p.runner_id
    left join traces t on t.team_id = h.team_id and t.id = h.trace_id
    where h.run_id = :run_id and h.trace_id = any(:trace_ids)
""")  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class RolloutState:
    """A rollout that was submitted. `placement`: queued, running or ended. `problem`: why nothing can be made of one
    that has ended; None: it has a reward. `ended_by_itself`: its agent or its environment said how it ended; otherwise
    its runners died, or its time was over."""

    trace_id: UUID
    placement: str
    attempt: int
    runner: str | None
    is_ready: bool
    labels: list[str]
    reward: float | None
    num_tokens: int
    has_samples: bool
    problem: str | None
    ended_by_itself: bool

    @property
    def has_ended(self) -> bool:
        """For good."""
        return self.placement == "ended"

    @property
    def is_graded(self) -> bool:
        """It has a reward that says something."""
        return self.has_ended and self.problem is None

    @property
    def is_trainable(self) -> bool:
        """And tokens."""
        return self.is_graded and self.has_samples


async def states_of(session: AsyncSession, run_id: UUID, trace_ids: Collection[UUID]) -> dict[UUID, RolloutState]:
    """Of those that were submitted."""
    rows = await session.execute(_STATES, {"run_id": run_id, "trace_ids": list(trace_ids)})
    return {row.trace_id: _state(row) for row in rows}


def _state(row: Any) -> RolloutState:
    return RolloutState(
        trace_id=row.trace_id,
        placement=row.state,
        attempt=row.attempt,
        runner=f"{row.host}:{row.pid}" if row.host is not None else None,
        is_ready=row.is_ready,
        labels=row.labels,
        reward=row.reward,
        num_tokens=int(row.num_tokens or 0),
        has_samples=bool(row.num_samples) and not _NOT_TRAINABLE.intersection(row.flags or ()),
        problem=_problem(row) if row.state == "ended" else None,
        ended_by_itself=row.outcome == "completed",
    )


def _problem(row: Any) -> str | None:
    if row.status in (None, "running"):
        return row.placement_error or f"its placement ended as {row.outcome}, and it never reported its end"
    if row.status == "cancelled":
        return "it was cancelled"
    if row.status == "error":
        return row.error or row.placement_error or "it ended in an error"
    if row.stop_reason == "timeout":
        return "it timed out, so its reward says nothing"
    if (row.evaluation_result or {}).get("isError"):
        return "its evaluation failed"
    if row.reward is None or not math.isfinite(row.reward):
        return "it has no reward"
    return None
