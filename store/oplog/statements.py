"""The statements of `store.oplog.work`, one for each step of an operation.

The parts of a statement run in the order in which they name each other: lease first, then model, then operations, as
everywhere, so that nobody deadlocks. A part that finds nothing leaves those behind it without work. A row that another
transaction changed meanwhile is waited for, read again and checked again before it counts.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from store.operation_kinds import BOUND_TO_HEAD, CONSUMERS, GRADIENTS, HANDLE_USERS, HEAD_MOVERS, is_any, is_none
from store.oplog.conditions import PENDING_GRADIENT, UNACKNOWLEDGED, WILL_BE_LEFT_OUT
from store.oplog.turns import CHARGE

HELD = "held as (select model_id from model_leases where model_id = %(model_id)s and token = %(token)s for update)"
"""SQL: the lease, locked; no row where this token is not its own."""

NODE_COLUMNS = """
    id, model_id, parent_id, files_id, files_model_id, step, name, metrics,
    num_traces, num_datums, num_tokens, mean_reward, learning_rate, loss_fn, operation_id
"""
NODE_VALUES = """
    %(id)s, %(model_id)s, %(parent_id)s, %(id)s, %(model_id)s, %(step)s, %(name)s, %(metrics)s,
    %(num_traces)s, %(num_datums)s, %(num_tokens)s, %(mean_reward)s, %(learning_rate)s, %(loss_fn)s, %(operation_id)s
"""
"""SQL: what is written of a new node of the tree, whether or not it has files."""

STEP_FINISHED = """
    finished as (
        update operations set state = 'done', result = %(result)s, plan = %(plan)s, finished_at = clock_timestamp()
        where id = %(operation_id)s and state = 'running' and exists (select from moved)
        returning id, sequence
    )
"""
"""SQL: the step is done, if it `moved` the head."""

STEP_CONSUMED = f"""
    consumed as (
        update operations o set consumed_by_id = finished.id
        from finished where o.model_id = %(model_id)s and {PENDING_GRADIENT} and o.sequence < finished.sequence
    )
"""
"""SQL: with the step that `finished`, all gradients before it are consumed."""

# A forward and a step belong to the weights that they are about to see, hence their head_version. A step leaves out the
# gradients that nobody acknowledged, and whoever waits for them after all is notified. The commit does not wait for the
# disk: a start that a crash of PostgreSQL undoes leaves the operation queued, as it was.
START_NEXT = f"""
    with {HELD}, model as (
        select * from models where id = (select model_id from held) for share
    ), next as (
        select id from operations
        where model_id = (select id from model) and state in ('queued', 'running')
        order by sequence limit 1 for update
    ), started as (
        update operations o
        set state = 'running',
            attempts = attempts + 1,
            retry_at = null,
            lease_token = %(token)s,
            started_at = clock_timestamp(),
            head_version = case
                when {is_any("kind", BOUND_TO_HEAD)} then model.head_version else o.head_version
            end
        from next, model
        where o.id = next.id
        returning o.*
    ), charged as (
        {CHARGE}
    ), left_out as (
        update operations o set
            state = 'superseded',
            error_code = 'unacknowledged',
            error_message = 'nobody waited for the answer of this ' || o.kind
                || ' any more when an optim_step came, so the step left it out; send it again'
        from started
        where {is_any("started.kind", CONSUMERS)} and o.model_id = started.model_id and o.sequence < started.sequence
            and {PENDING_GRADIENT} and {UNACKNOWLEDGED}
        returning o.id
    )
    select
        held.model_id as held, started.id, started.sequence, started.kind, started.payload, started.payload_blob,
        started.forward_id, started.attempts, started.faults, started.pictures, model.id as model_id, model.slug,
        model.base_id, model.lora, model.head_checkpoint_id, model.head_version, coalesce(head.step, 0) as head_step,
        head.state_removed_at is not null as head_is_thinned,
        (select count(pg_notify(%(channel)s, replace(left_out.id::text, '-', ''))) from left_out) as num_left_out,
        set_config('synchronous_commit', 'off', true)
    from (select) as always
    left join held on true
    left join model on true
    left join started on true
    left join checkpoints head on head.id = model.head_checkpoint_id
"""

PENDING = f"""
    select id, model_id, sequence, kind, payload, payload_blob, forward_id, attempts, faults, plan,
        case when plan is null then summary -> 'metrics' end as metrics, pictures
    from operations o where o.model_id = %(model_id)s and {PENDING_GRADIENT} order by sequence
"""

# Left out: between the last step that was made and this one. At least one row, without an id where nothing is pending.
GRADIENTS_OF_STEP = f"""
    with left_out as (
        select count(*) as num from operations o
        where o.model_id = %(model_id)s and o.sequence < %(sequence)s and o.state = 'superseded'
            and o.error_code = 'unacknowledged' and {is_any("o.kind", GRADIENTS)}
            and o.sequence > coalesce((
                select max(s.sequence) from operations s
                where s.model_id = %(model_id)s and {is_any("s.kind", CONSUMERS)} and s.state = 'done'
            ), 0)
    )
    select left_out.num as num_left_out, o.id, o.summary
    from left_out left join operations o on o.model_id = %(model_id)s and {PENDING_GRADIENT}
    order by o.sequence
"""

FINISH = f"""
    with {HELD}, finished as (
        update operations
        set state = %(state)s, result = %(result)s, result_blob = %(result_blob)s, summary = %(summary)s,
            plan = %(plan)s, error_code = %(error_code)s, error_message = %(error_message)s,
            finished_at = clock_timestamp()
        where id = %(id)s and state = 'running' and exists (select from held)
        returning id, forward_id, kind
    ), used as (
        update operations o set consumed_by_id = finished.id
        from finished
        where o.id = finished.forward_id and {is_any("finished.kind", HANDLE_USERS)} and %(state)s = 'done'
    )
    select held.model_id as held, finished.id as finished, pg_notify(%(channel)s, %(key)s)
    from (select) as always left join held on true left join finished on true
"""

# The operation keeps its place, and those behind it wait. A checkpoint that it staged will never be committed.
DEFER = f"""
    with {HELD}, deferred as (
        update operations o set
            state = 'queued', started_at = null, attempts = greatest(o.attempts - %(forgiven)s, 0),
            deferrals = o.deferrals + 1, faults = o.faults + %(faults)s, retry_reason = %(reason)s,
            retry_at = clock_timestamp()
                + make_interval(secs => least(%(pause_s)s * power(2, least(o.deferrals, 20)), %(max_pause_s)s))
        where o.id = %(id)s and o.state = 'running' and exists (select from held)
        returning o.id, o.model_id
    ), rejected as (
        update checkpoints c set status = 'rejected'
        from deferred where c.model_id = deferred.model_id and c.status = 'staged'
    )
    select held.model_id as held, deferred.id as deferred, pg_notify(%(channel)s, %(key)s)
    from (select) as always left join held on true left join deferred on true
"""

# What a look at the operation under way asks (`store.oplog.cancelling`).
LOOK = f"""
    select
        l.token is not distinct from %(token)s as is_held, o.state = 'running' as is_running,
        {is_none("o.kind", HEAD_MOVERS)} and {UNACKNOWLEDGED} as is_unacknowledged,
        {WILL_BE_LEFT_OUT} as will_be_left_out
    from operations o left join model_leases l on l.model_id = o.model_id
    where o.id = %(id)s
"""

LEAVE_OUT = f"""
    with {HELD}, left_out as (
        update operations o set
            state = 'superseded',
            error_code = 'unacknowledged',
            error_message = 'nobody waited for the answer of this ' || o.kind
                || ' any more, so it was stopped; send it again'
        where o.id = %(id)s and o.state = 'running' and exists (select from held)
            and {UNACKNOWLEDGED} and {WILL_BE_LEFT_OUT}
        returning o.id
    )
    select pg_notify(%(channel)s, %(key)s) from left_out
"""

PUT_BACK = f"""
    with {HELD}
    update operations o set state = 'queued', started_at = null, attempts = greatest(o.attempts - 1, 0)
    where o.id = %(id)s and o.state = 'running' and exists (select from held) and {UNACKNOWLEDGED}
    returning o.id
"""

# The commit does not wait for the disk: the one that moves the head there does, and makes this one last too.
STAGE = f"""
    with {HELD}, staged as (
        insert into checkpoints ({NODE_COLUMNS}, status, manifest)
        select {NODE_VALUES}, 'staged', %(manifest)s from held
        returning id
    )
    select pg_notify(%(channel)s, %(key)s), set_config('synchronous_commit', 'off', true) from staged
"""

REJECT = "update checkpoints set status = 'rejected' where id = %(id)s and status = 'staged'"

COMMIT = f"""
    with {HELD}, moved as (
        update models
        set head_checkpoint_id = %(checkpoint_id)s, head_version = head_version + 1,
            serves_head = true, served_checkpoint_id = null
        where id = (select model_id from held) and head_version = %(head_version)s
        returning id
    ), {STEP_FINISHED}, committed as (
        update checkpoints set status = 'committed', committed_at = clock_timestamp()
        where id = %(checkpoint_id)s and status = 'staged' and exists (select from finished)
        returning id
    ), {STEP_CONSUMED}
    select held.model_id as held, finished.id as finished, committed.id as committed, pg_notify(%(channel)s, %(key)s)
    from (select) as always left join held on true left join finished on true left join committed on true
"""
