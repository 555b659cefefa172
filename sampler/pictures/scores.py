"""Scores of a prompt that shows pictures: their tokens have none, for no policy writes them."""

from __future__ import annotations

from wire.media_items import media_of
from wire.sampling import PromptScores, ScoreRequest


def without_pictures(scores: PromptScores, request: ScoreRequest) -> PromptScores:
    """The same scores, but for the tokens of pictures: no logprob, no alternatives, and no targets in their place."""
    for item in media_of(request.prompt_media):
        for at in range(max(item.start, request.first), item.stop):
            row = at - request.first
            scores.logprobs[row] = None
            if request.top_logprobs:
                scores.top_ids[row], scores.top_logprobs[row] = [], []
        for at in range(max(item.start, 1), item.stop):
            if scores.targets is not None:
                scores.targets[at - 1] = [None] * len(scores.targets[at - 1])
    return scores
