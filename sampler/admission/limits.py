"""What a request may ask of a base, checked before anything is computed."""

from __future__ import annotations

import numpy as np

from sampler.backends.base import SamplerInfo
from wire.errors import ContextLengthExceeded, InvalidRequest
from wire.media_items import media_of
from wire.picture_runs import sequence_of
from wire.sampling import GenerateRequest, ScoreRequest


def max_new_tokens(request: GenerateRequest, info: SamplerInfo) -> int:
    """How many tokens this request may sample at most: what it asks for, cut to what the context has room for.

    Raises ContextLengthExceeded for a prompt that fills the context, and InvalidRequest for one that is empty or out of
    the vocabulary, or whose pictures are not as the base's rule has them, and for `min_tokens` of more than may be
    sampled.
    """
    stops = request.params.stop_token_ids
    _check_prompt(request, info)
    _check_ids("stop_token_ids", stops, info, "stop_token_ids")
    num_prompt, params = len(request.prompt_token_ids), request.params
    room = info.context_length - num_prompt
    if room < 1:
        raise ContextLengthExceeded.of(info.context_length, f"the prompt has {num_prompt} tokens")
    limit = min(params.max_tokens or room, room)
    if params.min_tokens > limit:
        raise InvalidRequest(
            f"min_tokens is {params.min_tokens}, more than the {limit} tokens that may be sampled", param="min_tokens"
        )
    return limit


def check_scoring(request: ScoreRequest, info: SamplerInfo) -> None:
    """Raises ContextLengthExceeded for a prompt that is longer than the context, and InvalidRequest for ids out of the
    vocabulary, for pictures that are not as the base's rule has them, and for targets that are not those of each token
    after the first."""
    prompt = request.prompt_token_ids
    _check_prompt(request, info)
    if len(prompt) > info.context_length:
        raise ContextLengthExceeded.of(info.context_length, f"the prompt has {len(prompt)} tokens")
    if request.targets is None:
        return
    if len(request.targets) != len(prompt) - 1 or len(set(map(len, request.targets))) > 1:
        raise InvalidRequest(
            f"targets must have {len(prompt) - 1} rows of one length, one for each token of the prompt after the first",
            param="targets",
        )
    ids = [token_id for row in request.targets for token_id in row if token_id != -1]
    _check_ids("targets", ids, info, "targets")


def _check_prompt(request: GenerateRequest | ScoreRequest, info: SamplerInfo) -> None:
    prompt, media = request.prompt_token_ids, request.prompt_media
    if not prompt:
        raise InvalidRequest("the prompt is empty: there is nothing to continue")
    _check_ids("the prompt", prompt, info, None)
    if media and info.pictures is None:
        raise InvalidRequest("this base takes no pictures")
    if media and info.pictures is not None:
        sequence_of(info.pictures, "the prompt", np.array(prompt, np.int32), media_of(media))


def _check_ids(what: str, ids: list[int], info: SamplerInfo, field: str | None) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < info.vocab_size):
        raise InvalidRequest(f"{what} has token ids outside the vocabulary of {info.vocab_size}", param=field)
