"""Messages to token ids, by whichever sampler of a target answers: the base's chat template is there alone."""

from __future__ import annotations

from typing import Any

from server.sampling.collaborators import Sampling
from server.sampling.target import Target
from store.planes.serving import Sampler
from wire.sampling import RenderRequest


async def render(
    sampling: Sampling, target: Target, messages: list[dict[str, Any]], tools: list[dict[str, Any]], *, opened: bool
) -> list[int]:
    """`opened`: with what the template writes before an answer. Raises Unavailable, InvalidRequest for what the
    template refuses, ContextLengthExceeded."""
    request = RenderRequest(messages=messages, tools=tools, add_generation_prompt=opened, team=str(target.team_id))

    async def on(sampler: Sampler) -> list[int]:
        return (await sampling.client.render(sampler.url, request)).token_ids

    return await sampling.dispatch.on_a_sampler(target, b"", on)
