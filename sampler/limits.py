"""What a request may ask of a base, checked before anything is computed."""

from __future__ import annotations

from sampler.backends.base import SamplerInfo
from wire.errors import InvalidRequest
from wire.sampling import GenerateRequest


def max_new_tokens(request: GenerateRequest, info: SamplerInfo) -> int:
    """How many tokens this request may sample at most.

    Raises InvalidRequest for a prompt that is empty, out of the vocabulary or longer than the context.
    """
    _check_ids(request, info)
    num_prompt, params = len(request.prompt_token_ids), request.params
    room = info.context_length - num_prompt
    wanted = max(params.max_tokens or 1, params.min_tokens)
    if wanted > room:
        raise InvalidRequest(
            f"{num_prompt} prompt tokens and {wanted} new ones do not fit the context of "
            f"{info.context_length} tokens; shorten the prompt, or ask for at most {max(room, 0)}"
        )
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise InvalidRequest(f"min_tokens {params.min_tokens} is more than max_tokens {params.max_tokens}")
    return params.max_tokens or room


def _check_ids(request: GenerateRequest, info: SamplerInfo) -> None:
    if not request.prompt_token_ids:
        raise InvalidRequest("the prompt is empty; it needs at least one token")
    for what, ids in (("the prompt", request.prompt_token_ids), ("stop_token_ids", request.params.stop_token_ids)):
        if ids and not (min(ids) >= 0 and max(ids) < info.vocab_size):
            raise InvalidRequest(f"{what} has token ids outside the vocabulary of {info.vocab_size}")
