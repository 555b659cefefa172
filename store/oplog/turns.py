"""Fair queueing: teams share the trainers of a base by tokens, not by calls.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024, arXiv:2401.00588):
the team goes first that has been served the fewest tokens, and one that comes back from a pause gets the tag of those
who are there, so that a pause earns nothing. Kept as start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996),
which needs no statement when an operation arrives: an operation that starts gets a start tag, the later of its team's
last finish tag and the virtual time; its finish tag lies its tokens behind that; the virtual time is the last start tag
that was given. One that starts while no other team waits sets the virtual time to the last finish tag: what was used
when nobody else wanted it is forgotten.

Between two teams that both wait the service differs by no more than the largest operation of each.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

CALL_TOKENS = 1000
"""What a call counts for beside its tokens: a switch between models, an optimizer step and its checkpoint."""

BUSY_MODELS = """
    with recursive busy as (
        (select model_id from operations where state in ('queued', 'running') order by model_id limit 1)
        union all
        select (
            select n.model_id from operations n
            where n.state in ('queued', 'running') and n.model_id > busy.model_id order by n.model_id limit 1
        )
        from busy where busy.model_id is not null
    )
"""
"""SQL: from one model with open operations to the next by the index of those: what waits behind a first one costs
nothing."""

NEXT_START_TAG = (
    "greatest(t.finish_tag, (select max(v.start_tag) from training_turns v where v.base_id = m.base_id), 0)"
)
"""SQL: the start tag that the next operation of a model `m` gets whose team's turn is `t`, or null."""

_OTHERS_WAIT = f"""
    exists (
        {BUSY_MODELS}
        select from busy join models n on n.id = busy.model_id
        where n.base_id = model.base_id and n.team_id <> model.team_id
    )
"""

CHARGE = f"""
    insert into training_turns as t (base_id, team_id, start_tag, finish_tag)
    select model.base_id, model.team_id, now.tag, now.tag + started.num_tokens + {CALL_TOKENS}
    from started, model, lateral (
        select coalesce(max(case when {_OTHERS_WAIT} then v.start_tag else v.finish_tag end), 0) as tag
        from training_turns v where v.base_id = model.base_id
    ) now
    on conflict (base_id, team_id) do update set
        start_tag = greatest(t.finish_tag, excluded.start_tag),
        finish_tag = greatest(t.finish_tag, excluded.start_tag) + excluded.finish_tag - excluded.start_tag
"""
"""SQL: charge the team of the row `model` for the operation `started`."""
