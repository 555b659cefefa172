"""Invariants of the op log: no operation is lost, no gradient is applied twice."""

from __future__ import annotations

from store.invariants.base import Invariant
from store.operation_kinds import (
    CONSUMERS,
    GRADIENTS,
    HANDLE_GIVERS,
    HANDLE_USERS,
    HEAD_MOVERS,
    SERVED_CHANGERS,
    is_any,
    is_none,
)
from wire.errors import A_FEW, FAULTS, TROUBLES

# ruff: noqa: S608 - put together from constants


def _listed(codes: frozenset[str]) -> str:
    return ", ".join(f"'{code}'" for code in sorted(codes))


LOG = (
    Invariant(
        "sequences have no gaps",
        "A model's operations are numbered 1, 2, 3 … without a gap and without a number twice.",
        """
        select m.id as model_id, m.slug, m.next_sequence, count(o.id) as num_operations,
            count(distinct o.sequence) as num_sequences, min(o.sequence) as lowest, max(o.sequence) as highest
        from models m left join operations o on o.model_id = m.id and o.sequence is not null
        group by m.id
        having count(o.id) <> m.next_sequence - 1 or count(distinct o.sequence) <> count(o.id)
            or min(o.sequence) <> 1 or max(o.sequence) <> m.next_sequence - 1
        """,
    ),
    Invariant(
        "only a client's number stands for a place",
        "An operation without a place in the log carries a client's number, and is held or has ended.",
        """
        select o.id as operation_id, o.model_id, o.client_sequence, o.state from operations o
        where (o.sequence is null and (o.client_sequence is null or o.state in ('queued', 'running', 'done')))
            or (o.sequence is not null and o.state = 'held')
        """,
    ),
    Invariant(
        "clients' numbers are worked off in order",
        "Of a model's operations that carry a client's numbers, a higher number has a later place; those with a place "
        "lie below the next number, and an operation is held only above it.",
        """
        select o.id as operation_id, o.model_id, o.client_sequence, o.sequence, o.state, m.next_client_sequence
        from (
            select *, max(sequence) over (
                partition by model_id order by client_sequence rows between unbounded preceding and 1 preceding
            ) as latest_before
            from operations where client_sequence is not null
        ) o
        join models m on m.id = o.model_id
        where o.sequence < o.latest_before
            or (o.sequence is not null and o.client_sequence >= m.next_client_sequence)
            or (o.state = 'held' and o.client_sequence <= m.next_client_sequence)
        """,
    ),
    Invariant(
        "one operation runs at a time",
        "At most one operation of a model runs, and those before it have ended.",
        """
        select o.id as operation_id, o.model_id, o.sequence, e.id as earlier_id, e.state as earlier_state
        from operations o
        join operations e on e.model_id = o.model_id and e.sequence < o.sequence and e.state in ('queued', 'running')
        where o.state = 'running'
        """,
    ),
    Invariant(
        "running operations are leased",
        "An operation that runs was started under its model's lease, which may have expired since.",
        """
        select o.id as operation_id, o.model_id, o.kind, o.lease_token, l.token, l.expires_at
        from operations o left join model_leases l on l.model_id = o.model_id
        where o.state = 'running' and l.token is distinct from o.lease_token
        """,
    ),
    Invariant(
        "ended operations have an outcome",
        "What is done has a result, what failed has a reason, and what is open has neither, nor a plan.",
        """
        select o.id as operation_id, o.model_id, o.kind, o.state, o.error_code
        from operations o
        where case
            when o.state = 'done'
                then (o.result is null) = (o.result_blob is null) or o.finished_at is null or o.error_code is not null
            when o.state = 'failed' then o.error_code is null or o.finished_at is null
            when o.state in ('held', 'queued', 'running')
                then o.result is not null or o.result_blob is not null or o.finished_at is not null
                    or o.plan is not null
            else false
        end
        """,
    ),
    Invariant(
        "operations end in what their request deserves",
        "No operation, but those that an earlier version logged (without request_digest), ended in a trouble, or "
        "in a fault of ours before it was tried a few times.",
        f"""
        select o.id as operation_id, o.model_id, o.kind, o.error_code, o.attempts, o.faults
        from operations o
        where o.state = 'failed' and o.request_digest is not null and (
            o.error_code in ({_listed(TROUBLES)})
            or (o.error_code in ({_listed(FAULTS)}) and o.attempts + o.faults < {A_FEW})
        )
        """,
    ),
    Invariant(
        "what is put off says why",
        "An operation that is not tried before a time is queued (or was superseded since), and says why.",
        """
        select o.id as operation_id, o.model_id, o.kind, o.state, o.retry_at, o.retry_reason, o.deferrals
        from operations o
        where (o.retry_at is not null and (
                o.state not in ('queued', 'superseded') or o.retry_reason is null or o.deferrals = 0
            ))
            or o.faults > o.deferrals
        """,
    ),
    Invariant(
        "gradients are done before they count",
        "Only a gradient that is done can be consumed, and only a gradient leaves a summary.",
        f"""
        select o.id as operation_id, o.model_id, o.kind, o.state, o.consumed_by_id
        from operations o
        where ({is_any("o.kind", GRADIENTS)} and o.consumed_by_id is not null and o.state <> 'done')
            or ({is_any("o.kind", GRADIENTS)} and o.state = 'done' and o.summary is null)
            or ({is_any("o.kind", CONSUMERS)} and o.consumed_by_id is not null)
        """,
    ),
    Invariant(
        "gradients are consumed by a step behind them",
        "What consumed a gradient is a later step of the same model that is done.",
        f"""
        select g.id as gradient_id, g.model_id, g.sequence, s.id as step_id, s.kind, s.state,
            s.sequence as step_sequence
        from operations g join operations s on s.id = g.consumed_by_id
        where {is_any("g.kind", GRADIENTS)}
            and ({is_none("s.kind", CONSUMERS)} or s.state <> 'done'
                or s.model_id <> g.model_id or s.sequence <= g.sequence)
        """,
    ),
    Invariant(
        "forwards are used by a backward behind them",
        "A forward's handle is used by a later backward of the same model that was made for it.",
        f"""
        select f.id as forward_id, f.model_id, b.id as backward_id, b.kind, b.state, b.forward_id as of_forward_id
        from operations f join operations b on b.id = f.consumed_by_id
        where {is_any("f.kind", HANDLE_GIVERS)} and (
            {is_none("b.kind", HANDLE_USERS)} or b.model_id <> f.model_id or b.forward_id is distinct from f.id
            or b.sequence <= f.sequence or b.state not in ('done', 'superseded')
        )
        """,
    ),
    Invariant(
        "steps consume all that was acknowledged",
        "A step that is done consumed every gradient before it that was done: none waits behind a step, and none was "
        "left for a later one.",
        f"""
        select g.id as gradient_id, g.model_id, g.sequence, g.consumed_by_id, s.id as step_id,
            s.sequence as step_sequence
        from operations g
        join operations s on s.model_id = g.model_id and {is_any("s.kind", CONSUMERS)} and s.state = 'done'
            and s.sequence > g.sequence
        left join operations c on c.id = g.consumed_by_id
        where {is_any("g.kind", GRADIENTS)} and g.state = 'done' and (c.id is null or s.sequence < c.sequence)
        """,
    ),
    Invariant(
        "steps have gradients",
        "A step that is done, and that promotes or made a checkpoint, consumed at least one gradient.",
        f"""
        select s.id as step_id, s.model_id, s.sequence from operations s
        where {is_any("s.kind", CONSUMERS)} and s.state = 'done'
            and ({is_any("s.kind", SERVED_CHANGERS)} or s.id in (select c.operation_id from checkpoints c))
            and s.id not in (select g.consumed_by_id from operations g where g.consumed_by_id is not null)
        """,
    ),
    Invariant(
        "a step is a checkpoint",
        "A model has as many committed checkpoints of its own as steps that are done and applied something.",
        f"""
        select m.id as model_id, m.slug, s.num_steps, c.num_checkpoints
        from models m
        cross join lateral (
            select count(*) as num_steps from operations o
            where o.model_id = m.id and {is_any("o.kind", HEAD_MOVERS)} and o.state = 'done'
                and exists (
                    select from operations g where g.model_id = o.model_id and g.consumed_by_id = o.id
                )
        ) s
        cross join lateral (
            select count(*) as num_checkpoints from checkpoints c
            where c.model_id = m.id and c.status = 'committed' and c.files_id = c.id and c.step > 0
        ) c
        where s.num_steps <> c.num_checkpoints
        """,
    ),
    Invariant(
        "idempotency keys are used once",
        "No two operations of a model have the same idempotency key.",
        """
        select o.model_id, o.idempotency_key, count(*) as num_operations from operations o
        where o.idempotency_key is not null group by o.model_id, o.idempotency_key having count(*) > 1
        """,
    ),
    Invariant(
        "what is to be carried out keeps its pictures",
        "A team has the pictures that its open operations name.",
        """
        select o.id as operation_id, o.model_id, o.kind, o.state, n.picture
        from operations o join models m on m.id = o.model_id cross join lateral unnest(o.pictures) as n (picture)
        where o.pictures is not null and o.state in ('held', 'queued', 'running') and not exists (
            select from pictures p where p.team_id = m.team_id and p.name = n.picture
        )
        """,
    ),
    Invariant(
        "what may be replayed keeps its payload",
        "Operations that are open, and gradients that no step has consumed, have not given up their blobs.",
        f"""
        select o.id as operation_id, o.model_id, o.kind, o.state, o.blobs_dropped_at from operations o
        where o.blobs_dropped_at is not null and (
            o.state in ('held', 'queued', 'running')
            or ({is_any("o.kind", GRADIENTS)} and o.state = 'done' and o.consumed_by_id is null)
        )
        """,
    ),
)
