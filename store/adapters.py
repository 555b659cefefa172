"""Which adapters samplers shall hold, and which they do.

Samplers are reconciled, not commanded: what they shall hold is a query over the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from store.notify import ADAPTER_LOADED, ADAPTERS_CHANGED, notify, notify_async
from store.planes import is_live
from store.tables import AdapterWantRow, CheckpointRow, ModelRow, SamplerAdapterRow, SamplerRow


@dataclass(frozen=True, slots=True)
class WantedAdapter:
    """An adapter that every sampler of its base shall hold. No files: the base weights under a name of their own."""

    name: str
    files: tuple[UUID, UUID] | None  # (model, checkpoint) in the checkpoint store


def base_adapter_name(base_id: UUID) -> str:
    """The name of a base's zero adapter."""
    return f"hw-base-{base_id.hex}"


def wanted_adapters(session: Session, base_id: UUID) -> list[WantedAdapter]:
    """Every head, staged checkpoint, and pin of this base's models, and the base itself."""
    wanted_until = select(AdapterWantRow.checkpoint_id).where(AdapterWantRow.until > func.clock_timestamp())
    query = (
        select(CheckpointRow)
        .join(ModelRow, ModelRow.id == CheckpointRow.model_id)
        .where(ModelRow.base_id == base_id)
        .where(
            or_(
                CheckpointRow.id == ModelRow.head_checkpoint_id,
                CheckpointRow.status == "staged",
                CheckpointRow.id.in_(wanted_until),
            )
        )
    )
    # Staged ones first: a step waits for them.
    staged_first = sorted(session.scalars(query), key=lambda c: c.status == "staged", reverse=True)
    by_name = {c.adapter_name: (c.files_model_id, c.files_id) for c in staged_first}
    base = WantedAdapter(base_adapter_name(base_id), None)
    return [base, *(WantedAdapter(name, files) for name, files in by_name.items())]


def report_adapter(session: Session, sampler_id: UUID, adapter: str, error: str | None) -> None:
    """A sampler loaded an adapter, or could not (and why)."""
    values = {"state": "failed" if error else "loaded", "error": error, "at": func.clock_timestamp()}
    row = insert(SamplerAdapterRow).values(sampler_id=sampler_id, adapter=adapter, **values)
    session.execute(row.on_conflict_do_update(index_elements=["sampler_id", "adapter"], set_=values))
    notify(session, ADAPTER_LOADED, adapter)


def reported_adapters(session: Session, sampler_id: UUID) -> set[str]:
    """What this sampler is known to hold."""
    query = select(SamplerAdapterRow.adapter).where(
        SamplerAdapterRow.sampler_id == sampler_id, SamplerAdapterRow.state == "loaded"
    )
    return set(session.scalars(query))


def forget_adapter(session: Session, sampler_id: UUID, adapter: str) -> None:
    """A sampler is about to unload an adapter: from this commit on nobody is sent there for it."""
    session.execute(
        delete(SamplerAdapterRow).where(
            SamplerAdapterRow.sampler_id == sampler_id, SamplerAdapterRow.adapter == adapter
        )
    )


async def live_samplers(session: AsyncSession, base_id: UUID) -> list[SamplerRow]:
    """Samplers of a base that live."""
    query = select(SamplerRow).where(SamplerRow.base_id == base_id, is_live(SamplerRow))
    return list(await session.scalars(query))


async def samplers_holding(session: AsyncSession, base_id: UUID, adapter: str) -> list[SamplerRow]:
    """Live samplers of a base that have this adapter loaded."""
    query = (
        select(SamplerRow)
        .join(SamplerAdapterRow, SamplerAdapterRow.sampler_id == SamplerRow.id)
        .where(SamplerRow.base_id == base_id, is_live(SamplerRow))
        .where(SamplerAdapterRow.adapter == adapter, SamplerAdapterRow.state == "loaded")
    )
    return list(await session.scalars(query))


async def adapter_failures(session: AsyncSession, base_id: UUID, adapter: str) -> list[str]:
    """Why live samplers could not load this adapter."""
    query = (
        select(SamplerAdapterRow.error)
        .join(SamplerRow, SamplerRow.id == SamplerAdapterRow.sampler_id)
        .where(SamplerRow.base_id == base_id, is_live(SamplerRow))
        .where(SamplerAdapterRow.adapter == adapter, SamplerAdapterRow.state == "failed")
    )
    return [error or "unknown" for error in await session.scalars(query)]


async def want_checkpoint(session: AsyncSession, checkpoint_id: UUID, for_s: float) -> None:
    """Have every sampler of the checkpoint's base hold it for a while, whether or not a head points at it."""
    until = func.clock_timestamp() + timedelta(seconds=for_s)
    row = insert(AdapterWantRow).values(checkpoint_id=checkpoint_id, until=until)
    longest = func.greatest(AdapterWantRow.until, row.excluded.until)
    await session.execute(row.on_conflict_do_update(index_elements=["checkpoint_id"], set_={"until": longest}))
    base_of = (
        select(ModelRow.base_id)
        .join(CheckpointRow, CheckpointRow.model_id == ModelRow.id)
        .where(CheckpointRow.id == checkpoint_id)
    )
    base_id = await session.scalar(base_of)
    assert base_id is not None, "checkpoints belong to forks, and forks have a base"
    await notify_async(session, ADAPTERS_CHANGED, base_id.hex)


def promotion_votes(session: Session, base_id: UUID, adapter: str) -> tuple[int, int, list[str]]:
    """(live samplers, how many of them hold the adapter, why others of them could not load it)."""
    live = list(session.scalars(select(SamplerRow.id).where(SamplerRow.base_id == base_id, is_live(SamplerRow))))
    rows = session.execute(
        select(SamplerAdapterRow.state, SamplerAdapterRow.error)
        .where(SamplerAdapterRow.adapter == adapter)
        .where(SamplerAdapterRow.sampler_id.in_(live))
    ).all()
    return (
        len(live),
        sum(state == "loaded" for state, _ in rows),
        [error or "unknown" for state, error in rows if state == "failed"],
    )
