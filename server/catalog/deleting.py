"""Deletes a model, by somebody who knows how many checkpoints that takes away."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, record
from server.catalog.contents import contents_of
from server.catalog.types import ModelContents
from store.model_removal import remove_model
from store.tables import ModelRow
from wire.errors import Conflict


async def delete_model(
    session: AsyncSession, actor: Actor, model: ModelRow, num_checkpoints: int | None
) -> ModelContents:
    """Delete it, and return what hung on it; its row is locked for update. Its name is free from then on.

    Raises Conflict, which counts what hangs on it, unless `num_checkpoints` is the number of its checkpoints, and while
    something is in the way.
    """
    found = await contents_of(session, model)
    if found.blockers:
        raise Conflict(f"{model.slug!r} cannot be deleted now: {'; '.join(found.blockers)}")
    if num_checkpoints != found.num_checkpoints:
        raise Conflict(f"{in_words(found)}; to delete it repeat the number: checkpoints={found.num_checkpoints}")
    await remove_model(session, model)
    counted = found.model_dump(include={"num_checkpoints", "num_bytes", "num_bytes_kept", "num_rollouts", "num_paths"})
    record(session, actor, "delete_model", team_id=model.team_id, subject_id=model.id, slug=found.model, **counted)
    await session.flush()
    return found


def in_words(found: ModelContents) -> str:
    """What hangs on a model, as one sentence."""
    parts = [_count(found.num_checkpoints, "checkpoint"), f"{found.num_bytes:,} bytes of files"]
    if forks := found.num_forks + found.num_forks_of_others:
        named = f" ({', '.join(found.forks)})" if found.forks else ""
        parts.append(f"{_count(forks, 'model')}{named} that began at them and keep {found.num_bytes_kept:,} bytes")
    if found.num_paths:
        parts.append(_count(found.num_paths, "tinker path"))
    if found.num_open_samplers:
        parts.append(_count(found.num_open_samplers, "open sampling session"))
    if found.num_calls:
        parts.append(_count(found.num_calls, "training call") + " that would be refused")
    kept = f"; {_count(found.num_rollouts, 'rollout')} and {_count(found.num_runs, 'run')} stay"
    return f"{found.model!r} has {', '.join(parts)}{kept}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
