"""Logprobs of a prompt's own tokens under a target's weights, from whichever sampler holds them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from server.sampling.collaborators import Sampling
from server.sampling.requests import PicturedPrompt, affinity
from server.sampling.target import Target
from store.planes.serving import Sampler
from wire.sampling import PromptScores, ScoreRequest


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is asked of each token, as in `ScoreRequest`."""

    top_logprobs: int = 0
    last_n: int | None = None
    targets: list[list[int]] | None = None


async def score(
    sampling: Sampling, target: Target, prompt: list[int] | PicturedPrompt, scoring: Scoring
) -> PromptScores:
    """Raises TooManyRequests, Unavailable, InvalidRequest (also for what the sampler would compute wrongly),
    SamplerFailed."""
    request = ScoreRequest(
        adapter=target.adapter,
        prompt_token_ids=prompt if isinstance(prompt, list) else prompt.ids,
        prompt_media=[] if isinstance(prompt, list) else prompt.media,
        top_logprobs=scoring.top_logprobs,
        last_n=scoring.last_n,
        targets=scoring.targets,
        team=str(target.team_id),
        call=uuid.uuid4().hex,
    )

    async def on(sampler: Sampler) -> PromptScores:
        async with sampling.limits.slot(target.team_id, target.max_concurrent_rollouts):
            with sampling.dispatch.occupied(target, sampler):
                return await sampling.client.score(sampler.url, request)

    return await sampling.dispatch.on_a_sampler(target, affinity(prompt), on)
