"""What a request asks for, in the words of `server.sampling`."""

from __future__ import annotations

from server.protocols.openai.constraints import RequestedConstraint
from server.protocols.openai.schemas import SamplingRequest
from wire.sampling import SamplingParams


def sampling_params(
    request: SamplingRequest, max_tokens: int | None, top_logprobs: int, asked: RequestedConstraint | None
) -> SamplingParams:
    """How to sample. What the context has room for is the sampler's to say, who knows the prompt's length."""
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(request.top_k or 0, 0),
        min_tokens=request.min_tokens or 0,
        seed=request.seed,
        stop=stop,
        stop_token_ids=request.stop_token_ids or [],
        ignore_eos=request.ignore_eos,
        top_logprobs=top_logprobs,
        constraint=asked[1] if asked else None,
    )
