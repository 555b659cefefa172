"""From the `model` (and `checkpoint`) of a request to the adapter that answers it, and the samplers that hold it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import structlog

from server.catalog.repository import as_reference, checkpoint_reference
from server.catalog.service import no_such_model
from server.catalog.types import ServingCheckpoint
from server.context import Context
from server.sampling.admission import SamplingKey
from server.sampling.lookups import PIN_S
from server.sampling.patience import Patience, wait_for_samplers
from server.sampling.sampler_client import SamplerGone
from server.sampling.target import Target
from store.planes.adapters import adapter_name, base_adapter_name, want_checkpoint
from store.planes.serving import Sampler, ServingInfo, ServingQuery
from wire.errors import ContextLengthExceeded, Gone, InvalidRequest, NotFound

T = TypeVar("T")

_MOST_BROKEN = 4
_PAUSE_S = 0.5


async def find_target(context: Context, key: SamplingKey, model: str, pinned: str | None) -> Target:
    """What the key's team calls so, in the statement that authenticated it where that asked for the same.

    Raises Unauthenticated, Forbidden where the key may not sample this, NotFound for the model or the pinned
    checkpoint, Gone when that one's files were removed.
    """
    key = await context.sampling_keys.ask(key, _question(key.hashed, model, pinned))
    found, caller = key.found, key.caller
    if found.model_id is None or found.slug is None or found.base_id is None or found.base_slug is None:
        raise no_such_model(model)
    caller.require_model(found.model_id, found.slug)
    structlog.contextvars.bind_contextvars(model_id=str(found.model_id), checkpoint=found.checkpoint_name)
    if pinned is not None:
        await _pin(context, found, pinned)
    return Target(
        caller=caller,
        team_id=found.team_id,
        model_id=found.model_id,
        max_concurrent_rollouts=found.max_concurrent_rollouts,
        slug=found.slug,
        base_id=found.base_id,
        base_slug=found.base_slug,
        checkpoint_id=found.checkpoint_id,
        serving=_serving_checkpoint(found),
        adapter=adapter_name(found.files_id) if found.files_id else base_adapter_name(found.base_id),
        samplers=found.samplers,
    )


@dataclass(frozen=True)
class Named:
    """The parameters of a request that samplers know by other names."""

    prompt: str
    constraint: str | None

    def of(self, param: str | None) -> str | None:
        """What the client calls a field of a sampler's request."""
        return self.constraint if param == "constraint" else param


async def on_a_sampler(
    context: Context, target: Target, affinity: bytes, work: Callable[[Sampler], Awaitable[T]], named: Named
) -> T:
    """What `work` makes of a sampler that holds the target's adapter. When that one is gone, another is tried, and
    everything is sampled anew: until several broke off, for then the request may be what they died of, or for
    `timeouts.samplers_s` none lived, held the adapter or answered. `named`: what the client
    calls what a sampler refuses.

    Raises Unavailable.
    """
    candidates, tried = target.samplers, set[UUID]()
    num_broken, patience = 0, Patience(context.settings.timeouts.samplers_s)
    while True:
        if not candidates:
            candidates = await wait_for_samplers(context, target, patience)
        if all(sampler.id in tried for sampler in candidates):
            async with context.shutdown.waiting():
                await asyncio.sleep(_PAUSE_S)
            tried.clear()
        sampler = context.sampler_pool.choose([s for s in candidates if s.id not in tried], affinity)
        tried.add(sampler.id)
        try:
            return await work(sampler)
        except InvalidRequest as error:
            error.param = named.prompt if isinstance(error, ContextLengthExceeded) else named.of(error.param)
            raise
        except SamplerGone as gone:
            num_broken += gone.broke_off
            (patience.reset if gone.broke_off else patience.begin)()
            if num_broken >= _MOST_BROKEN or patience.left_s <= 0:
                raise
        context.metrics.retried()
        candidates = (await context.holders.ask((target.base_id, target.adapter))).samplers


@asynccontextmanager
async def room_on(context: Context, target: Target, sampler: Sampler, num_sequences: int) -> AsyncGenerator[None]:
    """The right to have a sampler work on so many sequences. Raises TooManyRequests."""
    async with context.team_limits.slot(target.team_id, target.max_concurrent_rollouts):
        with context.sampler_pool.occupied(sampler, num_sequences):
            yield


def _question(hashed: bytes, model: str, pinned: str | None) -> ServingQuery:
    model_id, reference = as_reference(model)
    checkpoint = None if pinned is None else checkpoint_reference(pinned)
    return ServingQuery(hashed, model_id, reference, checkpoint)


def _serving_checkpoint(found: ServingInfo) -> ServingCheckpoint | None:
    if found.checkpoint_id is None or found.checkpoint_name is None or found.step is None:
        return None
    return ServingCheckpoint(id=str(found.checkpoint_id), name=found.checkpoint_name, step=found.step)


async def _pin(context: Context, found: ServingInfo, pinned: str) -> None:
    """Have samplers hold the checkpoint. They are woken only when the last pin has run half its time."""
    if found.checkpoint_id is None:
        raise NotFound(f"model {found.slug!r} has no checkpoint {pinned!r}", param="checkpoint")
    if found.files_are_removed:
        raise Gone(
            f"the files of {found.checkpoint_name} were removed by the retention policy; pin a newer checkpoint",
            param="checkpoint",
        )
    if not found.is_wanted:
        async with context.database.session() as session:
            await want_checkpoint(session, found.checkpoint_id, PIN_S)
