"""Moves a head by hand: samplers load the checkpoint first, then one transaction moves the head."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, actor_of, record
from server.auth.service import Caller
from server.catalog import service
from server.catalog.bases import untrained
from server.catalog.repeated_moves import SET_HEAD, MovedAlready, newest_move, refuse_repeated
from server.catalog.saving_nodes import NodeSaving
from server.catalog.types import Head
from server.process.shutdown import Shutdown
from server.values.removed_files import sentence_of_removal
from store.database import AsyncDatabase
from store.notify import ADAPTER_LOADED, AsyncListener
from store.planes.adapters import want_checkpoint
from store.planes.promotion import promotion_votes_async
from store.planes.promotion_policy import PromotionPolicy
from store.tables import CheckpointRow, ModelRow
from store.tree import head_of as head_of_model
from store.tree import move_head
from wire.adapter_names import base_adapter_name
from wire.errors import Forbidden, Gone, PromotionRejected, Unavailable
from wire.process.faults import fault_point

log = structlog.get_logger(__name__)

_POLL_S = 1.0
_WANT_S = 300.0


@dataclass(frozen=True, slots=True)
class Heads:
    """What moving a head takes. `policy`: which samplers must have loaded the checkpoint; `timeout_s`: within which
    time."""

    database: AsyncDatabase
    listener: AsyncListener
    shutdown: Shutdown
    policy: PromotionPolicy
    timeout_s: float


async def set_head(heads: Heads, caller: Caller, reference: str, checkpoint_reference: str | None) -> Head:
    """Point the model's head at one of its checkpoints, or (None) at the base weights.

    A checkpoint without files is computed again and saved first. A call that was sent again moves the head once. Raises
    NotFound, Forbidden for a base model, Gone when its files were removed, PromotionRejected when every live sampler
    refuses the checkpoint.
    """
    async with heads.database.session() as session:
        model = await service.get_model(session, caller.team_id, reference)
        since = await newest_move(session, model.id)
    caller.require_model(model.id, model.slug)
    actor = actor_of(caller)

    async def refuse(session: AsyncSession) -> None:
        target = await _target(session, model, checkpoint_reference)
        await refuse_repeated(session, actor, model.id, target.id if target else None, since)

    try:
        return await roll_to(heads, model, checkpoint_reference, actor, check=refuse)
    except MovedAlready:
        async with heads.database.session() as session:
            return head_of(model, await _target(session, model, checkpoint_reference))


async def _target(session: AsyncSession, model: ModelRow, reference: str | None) -> CheckpointRow | None:
    return None if reference is None else await service.get_checkpoint(session, model, reference)


async def roll_to(
    heads: Heads,
    model: ModelRow,
    checkpoint_reference: str | None,
    actor: Actor,
    reason: str | None = None,
    check: Callable[[AsyncSession], Awaitable[None]] | None = None,
) -> Head:
    """As `set_head`, of a model that was found already, by whoever may; `reason` goes into the audit log.

    `check` is asked first thing in the transaction that moves the head, for samplers may have taken long to load the
    checkpoint; what it raises leaves the head where it is.
    """
    if model.base_id is None:
        raise Forbidden(f"{model.slug!r} is {untrained(model)}, whose weights do not change; fork a base first")
    async with heads.database.session() as session:
        checkpoint = None
        if checkpoint_reference is not None:
            checkpoint = await service.get_checkpoint(session, model, checkpoint_reference)
            _refuse_without_files(checkpoint)
    if checkpoint is not None:
        await have_files(heads, checkpoint)
    await load_adapter(heads, model.base_id, checkpoint)
    fault_point("head:before-commit")
    async with heads.database.session() as session:
        if check is not None:
            await check(session)
        before = await head_of_model(session, model.id)
        await move_head(session, model.id, checkpoint.id if checkpoint else None)
        if checkpoint is not None:  # read again under the model's lock, which retention takes as well
            checkpoint = await session.get_one(CheckpointRow, checkpoint.id)
            _refuse_without_files(checkpoint)
        moved = {"from": str(before) if before else None, "to": str(checkpoint.id) if checkpoint else None}
        why = {"reason": reason} if reason else {}
        record(session, actor, SET_HEAD, team_id=model.team_id, subject_id=model.id, **moved, **why)
    fault_point("head:after-commit")
    if checkpoint is not None and checkpoint.state_removed_at is not None:
        log.warning("head_without_optimizer_state", model=model.slug, checkpoint=checkpoint.name)
    return head_of(model, checkpoint)


async def have_files(heads: Heads, checkpoint: CheckpointRow) -> None:
    """Have a trainer write the files of a node that has none. Raises Unavailable when none has done so in time."""
    await NodeSaving(heads.database, heads.listener, heads.shutdown, heads.timeout_s).save(checkpoint)


def head_of(model: ModelRow, checkpoint: CheckpointRow | None) -> Head:
    """A head as clients read it."""
    if checkpoint is None:
        return Head(model_id=str(model.id), checkpoint_id=None)
    return Head(
        model_id=str(model.id),
        checkpoint_id=str(checkpoint.id),
        checkpoint_name=checkpoint.name,
        step=checkpoint.step,
        fresh_moments=checkpoint.state_removed_at is not None,
    )


def adapter_of(base_id: UUID, checkpoint: CheckpointRow | None) -> str:
    """The name under which samplers hold a checkpoint, or (None) the base weights."""
    return checkpoint.adapter_name if checkpoint else base_adapter_name(base_id)


async def load_adapter(heads: Heads, base_id: UUID, checkpoint: CheckpointRow | None) -> None:
    """Have the live samplers that the policy waits for hold the checkpoint (None: the base weights).

    Returns at once when no sampler lives. Raises PromotionRejected when all of them refuse, Unavailable when none did
    in time or the server stops.
    """
    async with heads.shutdown.waiting():
        await _until_loaded(heads, base_id, checkpoint)


async def _until_loaded(heads: Heads, base_id: UUID, checkpoint: CheckpointRow | None) -> None:
    adapter, policy, timeout_s = adapter_of(base_id, checkpoint), heads.policy, heads.timeout_s
    deadline = time.monotonic() + timeout_s
    with heads.listener.subscribe(ADAPTER_LOADED, adapter) as subscription:
        if checkpoint is not None:
            async with heads.database.session() as session:
                await want_checkpoint(session, checkpoint.id, _WANT_S)
        while True:
            async with heads.database.connection() as connection:
                votes = await promotion_votes_async(connection, policy, base_id, adapter)
            left_s = deadline - time.monotonic()
            if not votes.live or votes.suffice(policy) or (votes.loaded and left_s <= 0):
                return
            if votes.is_refused:
                raise PromotionRejected(f"no sampler could load the checkpoint: {votes.refusals[0]}")
            if left_s <= 0:
                raise Unavailable(f"no sampler loaded the checkpoint within {timeout_s:.0f} s; try again")
            await subscription.wait(min(left_s, _POLL_S))


def _refuse_without_files(checkpoint: CheckpointRow) -> None:
    if checkpoint.files_removed_at is not None:
        raise Gone(sentence_of_removal(checkpoint.name, "choose a newer checkpoint"))
