"""How many tokens a chat is, without sampling an answer."""

from __future__ import annotations

from server.sampling.collaborators import Sampling
from server.sampling.fencing import fence
from server.sampling.requests import Chat, Rollout, affinity
from server.sampling.target import Target
from store.planes.serving import Sampler


async def count_tokens(sampling: Sampling, target: Target, chat: Chat, rollout: Rollout | None) -> int:
    """Of the prompt, with what the template writes before an answer. Raises what sampling would raise before it
    samples."""
    await fence(sampling.database, target.caller, target.model_id, rollout)
    request = chat.render.model_copy(update={"team": str(target.team_id)})

    async def on(sampler: Sampler) -> int:
        return len((await sampling.client.render(sampler.url, request)).token_ids)

    async with sampling.limits.slot(target.team_id, target.max_concurrent_rollouts):
        return await sampling.dispatch.on_a_sampler(target, affinity(chat), on)
