"""A database as it is after years, made by SQL: thousands of models, a deep tree, a long op log, many rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from server.runs.settings import RunConfig

_TREE = """
    with head as (
        select c.* from models m join checkpoints c on c.id = m.head_checkpoint_id where m.id = %(model)s
    ), nodes as (
        select number, md5('node' || number || %(model)s::text)::uuid as id
        from generate_series(1, %(depth)s) as number
    ), placed as (
        insert into checkpoints (id, model_id, parent_id, files_id, files_model_id, step, name, status, manifest,
            metrics, num_traces, num_datums, num_tokens, mean_reward, learning_rate, loss_fn, created_at, committed_at,
            guard_checked_at, files_removed_at)
        select n.id, h.model_id, p.id, n.id, h.model_id, n.number,
            to_char(n.number, 'FM0000') || '-' || left(n.id::text, 8), 'committed', h.manifest, h.metrics, 64,
            64, 6400, sin(n.number) / 2, 0.0001, 'importance_sampling',
            h.created_at + (n.number - %(depth)s) * interval '1 second',
            h.created_at + (n.number - %(depth)s) * interval '1 second', now(), now()
        from nodes n left join nodes p on p.number = n.number - 1 cross join head h
    )
    update checkpoints c set step = %(depth)s + 1, parent_id = n.id from head h, nodes n
    where c.id = h.id and n.number = %(depth)s
"""
_MODELS = """
    insert into models (id, team_id, slug, name, base_id, lora, created_at)
    select md5('filler' || number)::uuid, m.team_id, 'org/filler-' || number, 'Filler ' || number, m.base_id, m.lora,
        m.created_at - number * interval '1 minute'
    from models m, generate_series(1, %(models)s) as number where m.id = %(model)s
"""
_CHECKPOINTS = """
    insert into checkpoints (id, model_id, files_id, files_model_id, step, name, status, manifest, metrics, mean_reward,
        created_at, committed_at, guard_checked_at, files_removed_at)
    select md5('checkpoint' || number)::uuid, m.id, md5('checkpoint' || number)::uuid, m.id, 1,
        '0001-' || left(md5('checkpoint' || number), 8), 'committed', '{}', '{"reward_std": 0.1}', 0.5,
        m.created_at, m.created_at, now(), case when number %% 2 = 0 then now() end
    from generate_series(1, 2 * %(models)s) as number
    join models m on m.id = md5('filler' || 1 + number %% %(models)s)::uuid
"""
_HEADS = """
    update models m set head_checkpoint_id = md5('checkpoint' || number)::uuid
    from generate_series(1, %(models)s) as number where m.id = md5('filler' || 1 + number %% %(models)s)::uuid
"""
_OPERATIONS = """
    insert into operations (id, model_id, sequence, kind, state, payload, head_version, num_tokens, created_at,
        started_at, finished_at, answered_at, consumed_by_id)
    select md5('operation' || number)::uuid, md5('filler' || 1 + number / 16)::uuid, number %% 16,
        case number %% 2 when 0 then 'forward_backward' else 'optim_step' end, 'done', '-', number %% 16, 6400, at,
        at, at, at, case number %% 2 when 0 then md5('operation' || number + 1)::uuid end
    from generate_series(0, 16 * %(models)s - 1) as number,
        lateral (select now() - interval '1 day' - number * interval '1 second' as at) t
"""
_JOBS = """
    insert into jobs (team_id, id, name, created_at, is_evaluation)
    select %(team)s, md5('job' || n)::uuid, 'job ' || n, now() - n * interval '1 hour', false
    from generate_series(0, %(traces)s / 64) n
"""
_TRACES = """
    insert into traces (
        team_id, id, job_id, group_id, task_slug, model_id, status, reward, created_at, last_activity_at, num_samples,
        checkpoint_ids, text_read_until
    )
    select
        %(team)s, md5('t' || n)::uuid, md5('job' || n / 64)::uuid, 'group-' || n / 8, 'task-' || n %% 500,
        case when n %% 4 = 0 then %(model)s else md5('filler' || 1 + n %% %(models)s)::uuid end,
        case when n %% 50 = 7 then 'error' else 'completed' end, (n %% 101) / 100.0, at, at, 8,
        array[md5('checkpoint' || 1 + n / 512)::uuid], at
    from generate_series(0, %(traces)s - 1) n, lateral (select now() - n * interval '20 seconds' as at) t
"""
_EVALS = """
    insert into evals (id, model_id, benchmark, score, higher_is_better, mixed, checkpoint_id, guard_checked_at,
        created_at)
    select gen_random_uuid(), c.model_id, 'sums', 0.5, true, false, c.id, now(), c.created_at from checkpoints c
    where c.step %% 10 = 1
"""
_ALARMS = """
    insert into alarms (id, model_id, rule, subject_id, checkpoint_id, step, message, evidence, actions, state, outcome,
        acknowledged_at, created_at)
    select gen_random_uuid(), c.model_id, 'length', c.id, c.id, c.step, 'longer', '{}', '{}', 'noted', '{}', now(),
        c.created_at
    from checkpoints c where c.step %% 10 = 1
"""
_RUNS = """
    insert into runs (id, team_id, model_id, num_tasks, tasks, config, stop, state, job_id, created_at, ended_at)
    select md5('run' || n)::uuid, %(team)s, md5('filler' || 1 + n %% %(models)s)::uuid, 1, '[]', %(config)s, '{}',
        'completed', md5('job' || n)::uuid, now() - n * interval '1 minute', now()
    from generate_series(1, %(models)s) n
"""
_EVENTS = """
    insert into events (team_id, action, subject_id, detail)
    select %(team)s, 'set_head', md5('filler' || 1 + n %% %(models)s)::uuid, '{}' from generate_series(1, %(traces)s) n
"""
_SESSIONS = """
    insert into client_sessions (id, team_id, created_at, heartbeat_at, finished_at)
    select 'session-' || n, %(team)s, now() - n * interval '1 minute', now() - n * interval '1 minute', now()
    from generate_series(1, %(models)s) n
"""
_NAMES = """
    insert into checkpoint_names (id, model_id, kind, name, checkpoint_id, size_bytes, created_at)
    select gen_random_uuid(), c.model_id, 'sampler', 'kept', c.id, 1, c.created_at
    from checkpoints c join models m on m.head_checkpoint_id = c.id
"""
_BESIDE = (_MODELS, _OPERATIONS, _JOBS, _TRACES, _EVENTS, _SESSIONS)
_TRAINED = (_CHECKPOINTS, _HEADS, _EVALS, _ALARMS, _RUNS, _NAMES)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many models there are beside one (sixteen operations each, and where they were trained two checkpoints and a
    run), and how many rollouts."""

    models: int = 5000
    traces: int = 100_000


def deepen(connection: psycopg.Connection[Any], model_id: UUID, depth: int) -> None:
    """Put so many steps beneath the one that a model has trained."""
    connection.execute(_TREE.encode(), {"model": model_id, "depth": depth})


def fill_beside(
    connection: psycopg.Connection[Any], team_id: UUID, model_id: UUID, sizes: Sizes, *, trained: bool = True
) -> None:
    """Put so much beside a model of the team. trained: the other models have heads, whose files are nowhere."""
    values: dict[str, Any] = {"team": team_id, "model": model_id, "models": sizes.models, "traces": sizes.traces}
    values["config"] = RunConfig(steps=1).model_dump_json()
    for statement in (*_BESIDE, *(_TRAINED if trained else ())):
        connection.execute(statement.encode(), values)
    connection.execute("vacuum analyze")
