"""Where everything stands, for people who look: planes, bases, and models with the step that they serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Float, and_, cast, exists, func, or_, select, text
from sqlalchemy.orm import Session

from store.listed_models import is_listed
from store.planes.presence import PRESENT
from store.planes.registration import has_trouble, is_live
from store.planes.runner_presence import lives_sql as runner_lives_sql
from store.planes.trainer_availability import TrainerAvailability, trainer_availability
from store.tables import (
    CheckpointRow,
    ModelLeaseRow,
    ModelRow,
    OperationRow,
    SamplerAdapterRow,
    SamplerRow,
    TeamRow,
    TrainerRow,
)
from wire.loaded import Loaded

_OPEN = "queued", "running"


@dataclass(frozen=True, slots=True)
class PlaneState:
    """A server, trainer, sampler or runner that is not marked as stopped, or a base's last sampler, which gave up.
    `state`: starting, live, draining, silent, or stopped."""

    plane: str
    id: UUID
    base: str
    host: str
    pid: int
    state: str
    silent_s: float
    num_held: int
    """Models that a trainer has leased, adapters that a sampler has loaded, or placements that a runner holds."""
    num_failed: int
    """Adapters that a sampler could not load."""
    trouble: str | None = None
    """Why a sampler can generate nothing, or a runner take nothing."""
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    """What it has loaded, as of `wire.loaded`; empty while it loads."""

    @property
    def loaded(self) -> str:
        """The same in one line."""
        return Loaded.read(self.details).sentence() if self.details else ""


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model and its head; the figures are those of the head's step, and None for a model without one."""

    id: UUID
    model: str
    team: str | None
    base: str | None
    head: str | None
    step: int | None
    reward_mean: float | None
    kl: float | None
    entropy: float | None
    stepped_at: datetime | None
    num_queued: int
    num_running: int
    trouble: str | None = None
    """Why its first open operation is put off."""


@dataclass(frozen=True, slots=True)
class PlacedKind:
    """What runners are to carry out, of one kind."""

    kind: str
    num_queued: int
    num_running: int


@dataclass(frozen=True, slots=True)
class PausedModel:
    """A model that takes no training calls until it is resumed. `by`: its team, an operator, or the guard."""

    id: UUID
    model: str
    team: str | None
    by: str | None
    reason: str | None
    since: datetime


@dataclass(frozen=True, slots=True)
class OpenAlarm:
    """Something that a rule of the guard found, and nobody has acknowledged."""

    id: UUID
    model: str
    team: str | None
    rule: str
    state: str
    step: int
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """The service at one moment, by the database's clock. `planes`: servers, of no base, come first, and runners
    last."""

    at: datetime
    planes: list[PlaneState]
    bases: list[TrainerAvailability]
    models: list[ModelState]
    num_models: int
    placed: list[PlacedKind]
    paused: list[PausedModel] = field(default_factory=list[PausedModel])
    alarms: list[OpenAlarm] = field(default_factory=list[OpenAlarm])
    """The newest of both."""


def take_overview(session: Session, *, max_models: int = 200) -> Overview:
    """Everything that is not over; of the models, those that stepped or were made last. Runs that no list of models
    shows are left out, unless a trainer has them or shall have them."""
    at: datetime = session.execute(text("select clock_timestamp()")).scalar_one()
    return Overview(
        at=at,
        planes=[*_servers(session), *_trainers(session), *_samplers(session), *_runners(session)],
        bases=trainer_availability(session),
        models=_models(session, max_models),
        num_models=session.scalar(select(func.count()).select_from(ModelRow).where(_is_shown())) or 0,
        placed=[PlacedKind(*row) for row in session.execute(_PLACED)],
        paused=[PausedModel(*row) for row in session.execute(_PAUSED, {"most": max_models})],
        alarms=[OpenAlarm(*row) for row in session.execute(_ALARMS, {"most": max_models})],
    )


_RUNNERS = text(f"""
    select r.id, r.host, r.pid, r.trouble, r.versions, r.isolation, r.slots,
        case when not {runner_lives_sql("r")} then 'silent' when r.drained_at is null then 'live' else 'draining' end
        as state,
        extract(epoch from clock_timestamp() - r.heartbeat_at)::float as silent_s,
        (select count(*) from placements p where p.runner_id = r.id and p.state = 'running') as held
    from runners r where r.stopped_at is null order by r.started_at
""")  # noqa: S608 - put together from constants
_SERVERS = text(f"""
    select number, host, pid, details from servers where number = any({PRESENT}) order by started_at
""")  # noqa: S608 - put together from constants
_PAUSED = text("""
    select m.id, m.slug, t.name, m.paused_by, m.pause_reason, m.paused_at
    from models m left join teams t on t.id = m.team_id
    where m.paused_at is not null and m.removed_at is null order by m.paused_at desc limit :most
""")
_ALARMS = text("""
    select a.id, m.slug, t.name, a.rule, a.state, a.step, a.message, a.created_at
    from alarms a join models m on m.id = a.model_id left join teams t on t.id = m.team_id
    where a.acknowledged_at is null and m.removed_at is null order by a.created_at desc limit :most
""")
_PLACED = text("""
    select kind, count(*) filter (where state = 'queued'), count(*) filter (where state = 'running')
    from placements where state <> 'ended' group by kind order by kind
""")


def _runners(session: Session) -> list[PlaneState]:
    return [
        PlaneState(
            "runner",
            row.id,
            "",
            row.host,
            row.pid,
            row.state,
            row.silent_s,
            row.held,
            0,
            row.trouble,
            Loaded(
                version=str(row.versions.get("headway", "unknown")), isolation=row.isolation, slots=row.slots
            ).to_json(),
        )
        for row in session.execute(_RUNNERS)
    ]


def _servers(session: Session) -> list[PlaneState]:
    """They live as long as their locks are held: none of them is silent."""
    return [
        PlaneState("server", UUID(int=row.number), "", row.host, row.pid, "live", 0.0, 0, 0, None, row.details)
        for row in session.execute(_SERVERS)
    ]


def _trainers(session: Session) -> list[PlaneState]:
    held = (
        select(func.count())
        .where(ModelLeaseRow.trainer_id == TrainerRow.id, ModelLeaseRow.expires_at > func.clock_timestamp())
        .scalar_subquery()
    )
    query = (
        select(TrainerRow, ModelRow.slug, is_live(TrainerRow), _silence(TrainerRow), held)
        .join(ModelRow, ModelRow.id == TrainerRow.base_id)
        .where(TrainerRow.stopped_at.is_(None))
        .order_by(TrainerRow.started_at)
    )
    found = list[PlaneState]()
    for row, slug, live, silent_s, num_held in session.execute(query):
        state = ("starting" if row.is_loading else _live(row)) if live else "silent"
        found.append(
            PlaneState("trainer", row.id, slug, row.host, row.pid, state, silent_s, num_held, 0, None, row.details)
        )
    return found


def _samplers(session: Session) -> list[PlaneState]:
    def adapters(state: str):
        return (
            select(func.count())
            .where(SamplerAdapterRow.sampler_id == SamplerRow.id, SamplerAdapterRow.state == state)
            .scalar_subquery()
        )

    query = (
        select(
            SamplerRow, ModelRow.slug, is_live(SamplerRow), _silence(SamplerRow), adapters("loaded"), adapters("failed")
        )
        .join(ModelRow, ModelRow.id == SamplerRow.base_id)
        .where(or_(SamplerRow.stopped_at.is_(None), has_trouble()))
        .order_by(SamplerRow.started_at)
    )
    found = list[PlaneState]()
    for row, slug, live, silent_s, num_held, num_failed in session.execute(query):
        state = _live(row) if live else "stopped" if row.stopped_at else "silent"
        counts = num_held, num_failed
        found.append(
            PlaneState("sampler", row.id, slug, row.host, row.pid, state, silent_s, *counts, row.trouble, row.details)
        )
    return found


def _live(row: TrainerRow | SamplerRow) -> str:
    return "live" if row.drained_at is None else "draining"


def _silence(row: type[TrainerRow] | type[SamplerRow]) -> ColumnElement[float]:
    """Seconds since its last heartbeat."""
    return cast(func.extract("epoch", func.clock_timestamp() - row.heartbeat_at), Float)


def _is_shown() -> ColumnElement[bool]:
    is_leased = exists().where(ModelLeaseRow.model_id == ModelRow.id, ModelLeaseRow.expires_at > func.clock_timestamp())
    has_work = exists().where(OperationRow.model_id == ModelRow.id, OperationRow.state.in_(_OPEN))
    return or_(is_listed(), and_(ModelRow.removed_at.is_(None), or_(is_leased, has_work)))


def _models(session: Session, limit: int) -> list[ModelState]:
    base = select(ModelRow.id, ModelRow.slug).where(ModelRow.weights.is_not(None)).subquery()
    waiting = (
        select(
            OperationRow.model_id,
            func.count().filter(OperationRow.state == "queued").label("queued"),
            func.count().filter(OperationRow.state == "running").label("running"),
            func.max(OperationRow.retry_reason).filter(OperationRow.retry_at.is_not(None)).label("trouble"),
        )
        .where(OperationRow.state.in_(_OPEN))
        .group_by(OperationRow.model_id)
        .subquery()
    )
    query = (
        select(
            ModelRow, TeamRow.name, base.c.slug, CheckpointRow, waiting.c.queued, waiting.c.running, waiting.c.trouble
        )
        .outerjoin(TeamRow, TeamRow.id == ModelRow.team_id)
        .outerjoin(base, base.c.id == ModelRow.base_id)
        .outerjoin(CheckpointRow, CheckpointRow.id == ModelRow.head_checkpoint_id)
        .outerjoin(waiting, waiting.c.model_id == ModelRow.id)
        .where(_is_shown())
        .order_by(func.coalesce(CheckpointRow.committed_at, ModelRow.created_at).desc(), ModelRow.id)
        .limit(limit)
    )
    return [_model_state(*row) for row in session.execute(query)]


def _model_state(
    model: ModelRow,
    team: str | None,
    base: str | None,
    head: CheckpointRow | None,
    queued: int,
    running: int,
    trouble: str | None,
) -> ModelState:
    metrics = head.metrics if head else {}
    return ModelState(
        id=model.id,
        model=model.slug,
        team=team,
        base=base,
        head=head.name if head else None,
        step=head.step if head else None,
        reward_mean=head.mean_reward if head else None,
        kl=metrics.get("kl_sampling_trainer:mean"),
        entropy=metrics.get("entropy:mean"),
        stepped_at=head.committed_at if head else None,
        num_queued=queued or 0,
        num_running=running or 0,
        trouble=trouble,
    )
