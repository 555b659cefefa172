"""Invariants of what runners carry out."""

from __future__ import annotations

from store.invariants.base import Invariant

PLACEMENTS = (
    Invariant(
        "a placed rollout and its trace end together",
        "The trace of a rollout that is queued or running, and that nobody has cancelled, has no end; that of one that "
        "has ended has one.",
        """
        select h.team_id, h.trace_id, p.state, p.outcome, t.status
        from hosted_rollouts h
        join placements p on p.id = h.placement_id
        left join traces t on t.team_id = h.team_id and t.id = h.trace_id
        where (p.state <> 'ended' and p.cancelled_at is null and (t.id is null or t.status is not null))
            or (p.state = 'ended' and t.id is not null and t.status is null)
        """,
    ),
    Invariant(
        "samples are of the present attempt",
        "Of a rollout that runners carry out, the samples on record are those of its last attempt.",
        """
        select s.team_id, s.trace_id, t.attempt, s.attempt as attempt_of_sample
        from samples s join traces t on t.team_id = s.team_id and t.id = s.trace_id
        where t.attempt is not null and s.attempt is distinct from t.attempt
        """,
    ),
    Invariant(
        "runners hold no more than they can",
        "No runner has more placements than slots.",
        """
        select r.id, r.slots, count(*) as num_held
        from placements p join runners r on r.id = p.runner_id
        where p.state = 'running' group by r.id having count(*) > r.slots
        """,
    ),
)
