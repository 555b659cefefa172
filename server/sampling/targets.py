"""From the name of a model (and of a checkpoint) to the adapter that answers, and the samplers that hold it."""

from __future__ import annotations

from uuid import UUID

import structlog

from server.catalog.pinned_names import split_pinned
from server.catalog.repository import as_reference, checkpoint_reference
from server.catalog.service import no_such_model
from server.principals.callers import Caller
from server.process.shared_lookups import SharedLookups
from server.sampling.admission import SamplingKey, SamplingKeys
from server.sampling.collaborators import Sampling
from server.sampling.target import ServedCheckpoint, Target
from server.values.removed_files import sentence_of_removal
from store.planes.serving import ServingInfo, ServingQuery
from wire.adapter_names import adapter_name, base_adapter_name
from wire.errors import Gone, InvalidRequest, NotFound


async def find_target(sampling: Sampling, who: SamplingKey | Caller, model: str, pinned: str | None = None) -> Target:
    """What the caller's team calls so; `MODEL:CHECKPOINT` is a model with a `pinned` checkpoint. For a key this is one
    statement with the one that authenticated it, where that asked for the same. `who`: or a caller who is known
    already.

    Raises Unauthenticated, Forbidden where the caller may not sample this, NotFound for the model or the pinned
    checkpoint, Gone when that one's files were removed, InvalidRequest for another vendor's model, which no sampler
    has.
    """
    if pinned is None:
        model, pinned = split_pinned(model)
    caller, found = await _found(sampling.keys, who, model, pinned)
    if found is None or found.model_id is None or found.slug is None or found.base_id is None or not found.base_slug:
        raise no_such_model(model)
    caller.require_model(found.model_id, found.slug)
    if found.upstream is not None:
        raise InvalidRequest(
            f"{found.slug!r} is another vendor's model: it is sampled in the vendor's own API alone, which is "
            f"{found.upstream['api']!r}",
            param="model",
        )
    structlog.contextvars.bind_contextvars(model_id=str(found.model_id), checkpoint=found.checkpoint_name)
    if pinned is not None:
        await _pin(sampling.wants, found, pinned)
    return Target(
        caller=caller,
        team_id=caller.team_id,
        model_id=found.model_id,
        max_concurrent_rollouts=found.max_concurrent_rollouts,
        slug=found.slug,
        base_id=found.base_id,
        base_slug=found.base_slug,
        checkpoint=_checkpoint(found),
        adapter=adapter_name(found.files_id) if found.files_id else base_adapter_name(found.base_id),
        samplers=found.samplers,
        reads_pictures=bool(found.reads_pictures),
    )


async def _found(
    keys: SamplingKeys, who: SamplingKey | Caller, model: str, pinned: str | None
) -> tuple[Caller, ServingInfo | None]:
    if isinstance(who, Caller):
        who.require("sample")
        model_id, reference = as_reference(model)
        checkpoint = None if pinned is None else checkpoint_reference(pinned)
        return who, await keys.lookups.ask(ServingQuery(who.team_id, model_id, reference, checkpoint))
    key = await look_up(keys, who, model, pinned)
    return key.caller, key.found


async def look_up(keys: SamplingKeys, key: SamplingKey, model: str, pinned: str | None = None) -> SamplingKey:
    """The key with what its team calls so, as `find_target` asks for it: the two cost one statement together."""
    model_id, reference = as_reference(model)
    checkpoint = None if pinned is None else checkpoint_reference(pinned)
    return await keys.ask(key, ServingQuery(key.hashed, model_id, reference, checkpoint))


def _checkpoint(found: ServingInfo) -> ServedCheckpoint | None:
    if found.checkpoint_id is None or found.checkpoint_name is None or found.step is None:
        return None
    return ServedCheckpoint(found.checkpoint_id, found.checkpoint_name, found.step)


async def _pin(wants: SharedLookups[UUID, None], found: ServingInfo, pinned: str) -> None:
    """Have samplers hold the checkpoint. They are woken only when the last pin has run half its time."""
    if found.checkpoint_id is None:
        raise NotFound(f"model {found.slug!r} has no checkpoint {pinned!r}", param="checkpoint")
    if found.files_are_removed:
        raise Gone(
            sentence_of_removal(found.checkpoint_name, "pin a newer checkpoint"),
            param="checkpoint",
        )
    if not found.is_saved:
        raise Gone(
            f"{found.checkpoint_name} has no files yet; save it, or move the head there, before you sample it",
            param="checkpoint",
        )
    if not found.is_wanted:
        await wants.ask(found.checkpoint_id)
