"""Counts for monitoring. Each figure is one short statement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.planes.presence import PRESENT
from store.planes.registration import lives_sql
from store.planes.runner_presence import lives_sql as runner_lives_sql
from store.planes.sampler_demand import SamplerDemand, sampler_demands
from store.run_states import IS_LIVE


@dataclass(frozen=True, slots=True)
class OpenOperations:
    """Of one kind, in one state. `oldest_s`: since the oldest was accepted."""

    kind: str
    state: str
    count: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Held:
    """How many of something a base has, by what sets them apart (a state, a backend)."""

    base: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class ModelHead:
    """A model and the figures of the step that its head points at."""

    model_id: UUID
    slug: str
    team: str
    step: int
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Placed:
    """What runners are to carry out, of one kind, in one state. `oldest_s`: since the oldest could be taken, or was."""

    kind: str
    state: str
    count: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Slots:
    """Of live runners that have a label; of all of them for none. `state`: held, free, or drained."""

    label: str
    state: str
    count: int


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A managed run that has not ended. `is_waiting`: something keeps it from going on."""

    run_id: UUID
    model: str
    team: str
    state: str
    step: int
    is_waiting: bool
    reward: float | None
    held_out_score: float | None


@dataclass(frozen=True, slots=True)
class Described:
    """A live server or runner, and what it says of itself."""

    host: str
    pid: int
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Census:
    """The service at one moment."""

    operations: list[OpenOperations]
    trainers: list[Held]
    samplers: list[Held]
    adapters: list[Held]
    leases: list[Held]
    placements: list[Placed]
    slots: list[Slots]
    num_bases: int
    num_forks: int
    teams: list[tuple[UUID, str]]
    heads: list[ModelHead]
    runs: list[LiveRun] = field(default_factory=list[LiveRun])
    servers: list[Described] = field(default_factory=list["Described"])
    runners: list[Described] = field(default_factory=list["Described"])
    demands: list[SamplerDemand] = field(default_factory=list[SamplerDemand])


_OPERATIONS = """
    select kind, state, count(*), extract(epoch from clock_timestamp() - min(created_at))::float
    from operations where state in ('queued', 'running') group by kind, state
    union all
    select kind, state, count(*), extract(epoch from clock_timestamp() - min(created_at))::float
    from operations where state = 'held' group by kind, state
    order by kind, state
"""
_TRAINERS = f"""
    select b.slug, case when t.is_loading then 'loading' else 'ready' end, count(*)
    from trainers t join models b on b.id = t.base_id where {lives_sql("t")}
    group by 1, 2 order by 1, 2
"""  # noqa: S608 - put together from constants
_SAMPLERS = f"""
    select b.slug, s.backend, count(*)
    from samplers s join models b on b.id = s.base_id where {lives_sql("s")}
    group by 1, 2 order by 1, 2
"""  # noqa: S608
_ADAPTERS = f"""
    select b.slug, a.state, count(*)
    from sampler_adapters a join samplers s on s.id = a.sampler_id join models b on b.id = s.base_id
    where {lives_sql("s")} group by 1, 2 order by 1, 2
"""  # noqa: S608
_LEASES = """
    select b.slug, 'held', count(*)
    from model_leases l join models m on m.id = l.model_id join models b on b.id = m.base_id
    where l.expires_at > clock_timestamp() group by 1 order by 1
"""
_MODELS = """
    select count(*) filter (where weights is not null), count(*) filter (where base_id is not null)
    from models where removed_at is null
"""
_TEAMS = "select id, name from teams where removed_at is null order by created_at limit 1000"
_HEADS = """
    select m.id, m.slug, t.name, c.step, c.metrics
    from models m join checkpoints c on c.id = m.head_checkpoint_id join teams t on t.id = m.team_id
    where c.committed_at > clock_timestamp() - interval '1 day' order by c.committed_at desc limit :num_heads
"""


_PLACEMENTS = """
    select kind, state, count(*), extract(epoch from clock_timestamp() - min(
        case state when 'queued' then available_at else taken_at end
    ))::float
    from placements where state <> 'ended' group by kind, state order by kind, state
"""
_SLOTS = f"""
    with held as (
        select r.id, r.slots, r.labels, r.drained_at, count(p.id) as num
        from runners r left join placements p on p.runner_id = r.id and p.state = 'running'
        where {runner_lives_sql("r")} group by r.id
    ), slots as (
        select unnest(labels || ''::text) as label, num as held,
            case when drained_at is null then greatest(slots - num, 0) else 0 end as free,
            case when drained_at is null then 0 else greatest(slots - num, 0) end as drained
        from held
    )
    select label, state, sum(number)
    from slots, lateral (values ('held', held), ('free', free), ('drained', drained)) as v (state, number)
    group by label, state order by label, state limit 300
"""  # noqa: S608 - put together from constants


_RUNS = f"""
    select r.id, m.slug, t.name, r.state, r.step, r.waiting_for is not null, r.reward, r.held_out_score
    from runs r join models m on m.id = r.model_id join teams t on t.id = r.team_id
    where {IS_LIVE} order by r.created_at desc limit 300
"""  # noqa: S608 - put together from constants


_SERVERS = f"select host, pid, details from servers where number = any({PRESENT}) order by started_at limit 300"  # noqa: S608
_RUNNERS = f"""
    select host, pid, versions || jsonb_build_object('isolation', isolation)
    from runners r where {runner_lives_sql("r")} order by started_at limit 300
"""  # noqa: S608 - put together from constants


def take_census(session: Session, *, num_heads: int = 50) -> Census:
    """Count everything; of the models that stepped within a day, the `num_heads` that did so last."""
    num_bases, num_forks = session.execute(text(_MODELS)).one()
    return Census(
        operations=[OpenOperations(*row) for row in session.execute(text(_OPERATIONS))],
        trainers=_held(session, _TRAINERS),
        samplers=_held(session, _SAMPLERS),
        adapters=_held(session, _ADAPTERS),
        leases=_held(session, _LEASES),
        placements=[Placed(*row) for row in session.execute(text(_PLACEMENTS))],
        slots=[Slots(row[0], row[1], int(row[2])) for row in session.execute(text(_SLOTS))],
        num_bases=num_bases,
        num_forks=num_forks,
        teams=[(row[0], row[1]) for row in session.execute(text(_TEAMS))],
        heads=[ModelHead(*row) for row in session.execute(text(_HEADS), {"num_heads": num_heads})],
        runs=[LiveRun(*row) for row in session.execute(text(_RUNS))],
        servers=[Described(*row) for row in session.execute(text(_SERVERS))],
        runners=[Described(*row) for row in session.execute(text(_RUNNERS))],
        demands=sampler_demands(session),
    )


def _held(session: Session, query: str) -> list[Held]:
    return [Held(*row) for row in session.execute(text(query))]
