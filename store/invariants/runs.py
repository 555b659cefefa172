"""Invariants of managed runs."""

from __future__ import annotations

from store.invariants.base import Invariant
from store.run_states import IS_LIVE

RUNS = (
    Invariant(
        "a run counts the steps that it has done",
        "The step that a run names is the newest of its steps that are done.",
        """
        select r.id, r.step, s.step as found
        from runs r
        left join (
            select run_id, max(step) as step from run_steps where kind = 'train' and phase = 'done' group by run_id
        ) s on s.run_id = r.id
        where r.step <> coalesce(s.step, 0)
        """,
    ),
    Invariant(
        "a run's rollout counts once",
        "No rollout is trained on in two places of a run.",
        """
        select s.run_id, trace, count(*) as times
        from run_steps s, jsonb_array_elements(s.chosen -> 'groups') g, jsonb_array_elements_text(g) trace
        where s.kind = 'train' and s.phase <> 'dropped'
        group by s.run_id, trace having count(*) > 1
        """,
    ),
    Invariant(
        "a run's step has its checkpoint",
        "A step that is done names a committed checkpoint of the run's model.",
        """
        select s.run_id, s.step, s.checkpoint_id, c.status
        from run_steps s join runs r on r.id = s.run_id left join checkpoints c on c.id = s.checkpoint_id
        where s.kind = 'train' and s.phase = 'done'
            and (c.id is null or c.model_id <> r.model_id or c.status <> 'committed')
        """,
    ),
    Invariant(
        "a run that has ended has nothing under way",
        "Steps that are neither done nor dropped are of runs that live.",
        f"""
        select s.run_id, s.step, s.kind, s.phase, r.state
        from run_steps s join runs r on r.id = s.run_id
        where s.phase not in ('done', 'dropped') and not ({IS_LIVE})
        """,  # noqa: S608 - put together from constants
    ),
)
