"""The statements by which samples and spans are recorded. `store.rollouts.recording` says in which order, and why."""

from __future__ import annotations

KNOWN = """
    select team_id, trace_id, digest, prompt_length, output_length, prompt_digest, end_digest, num_items, items_digest
    from samples
    where (team_id, trace_id) in (select * from unnest(%(teams)s::uuid[], %(traces)s::uuid[]))
    order by recorded_at, digest
"""

# A sample of an attempt that is past says nothing about the present one.
LOCK_TRACE = """
    insert into traces (team_id, id, model, model_id, checkpoint_ids, flags, evaluated_reward)
    values (
        %(team_id)s, %(id)s, %(model)s, coalesce(%(model_id)s::uuid, %(upstream_id)s::uuid), %(checkpoint_ids)s::uuid[],
        %(flags)s::text[],
        %(evaluated_reward)s
    )
    on conflict (team_id, id) do update set
        last_activity_at = clock_timestamp(),
        model = coalesce(traces.model, excluded.model),
        model_id = coalesce(%(model_id)s::uuid, traces.model_id, excluded.model_id),
        evaluated_reward = coalesce(excluded.evaluated_reward, traces.evaluated_reward),
        checkpoint_ids = case
            when traces.attempt is distinct from %(attempt)s::int or traces.checkpoint_ids @> excluded.checkpoint_ids
                then traces.checkpoint_ids
            else array(select distinct unnest(traces.checkpoint_ids || excluded.checkpoint_ids)) end,
        flags = case when traces.flags @> excluded.flags then traces.flags
            else array(select distinct unnest(traces.flags || excluded.flags)) end
"""

_SERVED = (
    "served_at",
    "completion_id",
    "model_id",
    "checkpoint_id",
    "sampling",
    "finish_reason",
    "seconds",
    "conversation",
    "conversation_blob",
    "conversation_parent",
    "items_shared",
    "num_items",
    "items_digest",
)
_TOLD = (
    "team_id",
    "trace_id",
    "digest",
    "prompt_length",
    "output_length",
    "parent_digest",
    "prompt_shared",
    "prompt_digest",
    "end_digest",
    "tokens",
    "tokens_blob",
    "media",
    "attempt",
)
_COLUMNS = (*_TOLD, *_SERVED)

# A trace is of the model whose tokens were sampled last; only where there are none, of another vendor's, which may be a
# judge.
# Telemetry may be here before the gateway: then the row gets what the gateway knows. The first record stays.
# The trace is locked first, so what is there to be shared with stays; where it has gone, or the trace has, nothing is
# written. The same where the trace is at another attempt by now (`store.placements.attempts`). Of the names of pictures
# those count that the team has.
INSERT_SAMPLE = f"""
    with locked as (
        select attempt from traces where team_id = %(team_id)s and id = %(trace_id)s for no key update
    ), present as (
        select coalesce((select attempt from locked) is distinct from %(attempt)s::int, false) as is_past
    ), parents as (
        select not (select is_past from present) and exists (select from locked) and not exists (
            select from (values
                (%(parent_digest)s::bytea, null::bytea),
                (%(conversation_parent)s::bytea, %(parent_items_digest)s::bytea)
            ) as parent (digest, items_digest)
            where parent.digest is not null and not exists (
                select from samples s
                where s.team_id = %(team_id)s and s.trace_id = %(trace_id)s and s.digest = parent.digest
                    and (parent.items_digest is null or s.items_digest = parent.items_digest)
            )
        ) as are_there
    ), written as (
        insert into samples ({", ".join(_COLUMNS)})
        select {", ".join(f"%({name})s" for name in _COLUMNS)} from parents where are_there
        on conflict (team_id, trace_id, digest)
            do update set {", ".join(f"{name} = excluded.{name}" for name in _SERVED)}
        where samples.served_at is null and excluded.served_at is not null
        returning case when xmax = 0 then 1 else 0 end as is_new
    ), named as (
        select p.name from pictures p, parents
        where p.team_id = %(team_id)s and p.name = any(%(pictures)s::text[]) and are_there
    ), pictured as (
        insert into trace_pictures (team_id, trace_id, name)
        select %(team_id)s, %(trace_id)s, name from named on conflict do nothing
    ), fresh as (
        select p.name from pictures p
        where p.team_id = %(team_id)s and p.name in (select name from named) and not p.is_recorded
        order by p.name for no key update
    ), recorded as (
        update pictures p set is_recorded = true from fresh where p.team_id = %(team_id)s and p.name = fresh.name
    ), counted as (
        update traces set
            last_activity_at = clock_timestamp(),
            model_id = case
                when %(output_length)s > 0 then coalesce(%(model_id)s::uuid, model_id)
                else coalesce(model_id, %(model_id)s::uuid)
            end,
            checkpoint_ids = case
                when %(checkpoint_id)s::uuid is null or checkpoint_ids @> array[%(checkpoint_id)s::uuid]
                    then checkpoint_ids
                else checkpoint_ids || %(checkpoint_id)s::uuid
            end,
            num_samples = num_samples + new.num,
            num_prompt_tokens = num_prompt_tokens + new.num * %(prompt_length)s,
            num_output_tokens = num_output_tokens + new.num * %(output_length)s
        from (select coalesce((select is_new from written), 0) as num from parents where are_there) as new
        where team_id = %(team_id)s and id = %(trace_id)s
        returning num_samples
    )
    select are_there, (select is_past from present) as is_past, (select is_new from written) = 1 as is_new,
        (select num_samples from counted) as num_samples
    from parents
"""  # noqa: S608 - put together from constants

# The content that came first counts, what comes later under the same id is kept with a flag.
INSERT_SPAN = """
    insert into spans (
        team_id, trace_id, span_id, digest, schema_tag, name, step_id, source, started_at, ended_at, sample_digest,
        flag, num_bytes, payload, payload_blob
    )
    select
        %(team_id)s, %(trace_id)s, %(span_id)s, %(digest)s, %(schema_tag)s, %(name)s, %(step_id)s, %(source)s,
        %(started_at)s, %(ended_at)s, %(sample_digest)s,
        coalesce(
            %(flag)s,
            case when exists (
                select from spans s
                where s.team_id = %(team_id)s and s.trace_id = %(trace_id)s and s.span_id = %(span_id)s
                    and s.digest <> %(digest)s
            ) then %(span_id_reused)s end
        ),
        %(num_bytes)s, %(payload)s, %(payload_blob)s
    on conflict (team_id, trace_id, span_id, digest) do nothing
    returning flag, sample_digest is not null as has_sample
"""

# Bytes that a span had in base64.
NAME_CONTENTS = """
    insert into trace_pictures (team_id, trace_id, name)
    select %(team_id)s, %(trace_id)s, unnest(%(contents)s::text[]) on conflict do nothing
"""

COUNT_SPANS = """
    update traces set
        num_turns = num_turns + %(num_turns)s,
        flags = case when flags @> %(flags)s::text[] then flags
            else array(select distinct unnest(flags || %(flags)s::text[])) end
    where team_id = %(team_id)s and id = %(id)s
"""
