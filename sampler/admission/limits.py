"""What a request may ask of a base, checked before anything is computed."""

from __future__ import annotations

from sampler.backends.base import SamplerInfo
from wire.errors import ContextLengthExceeded, InvalidRequest
from wire.sampling import GenerateRequest


def max_new_tokens(request: GenerateRequest, info: SamplerInfo) -> int:
    """How many tokens this request may sample at most: what it asks for, cut to what the context has room for.

    Raises ContextLengthExceeded for a prompt that fills the context, and InvalidRequest for one that is empty or out of
    the vocabulary, and for `min_tokens` of more than may be sampled.
    """
    _check_ids(request, info)
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


def _check_ids(request: GenerateRequest, info: SamplerInfo) -> None:
    if not request.prompt_token_ids:
        raise InvalidRequest("the prompt is empty: there is nothing to continue")
    prompt, stops = request.prompt_token_ids, request.params.stop_token_ids
    for what, ids, field in (("the prompt", prompt, None), ("stop_token_ids", stops, "stop_token_ids")):
        if ids and not (min(ids) >= 0 and max(ids) < info.vocab_size):
            raise InvalidRequest(f"{what} has token ids outside the vocabulary of {info.vocab_size}", param=field)
