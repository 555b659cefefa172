"""One answer of vLLM as it comes: which of its tokens count, the text that is final, and when it ends.

Stop strings are found here, with bytes and not with decoded tokens, so that all backends end an answer at the same
token with the same text; vLLM is asked to generate until its request is aborted.
"""

from __future__ import annotations

import math
from typing import Any

from sampler.backends.vllm.client import Chunk, finite_or_nan
from sampler.incremental_detokenizer import IncrementalDetokenizer
from sampler.vocabulary import Vocabulary
from wire.errors import HeadwayError, Unavailable
from wire.sampling import GenerateEvent, GenerateRequest, SampledTokens, SamplingParams, TopLogprob


def vllm_params(params: SamplingParams, limit: int, stop_ids: frozenset[int], seed: int | None) -> dict[str, Any]:
    """vLLM's sampling parameters. The end of an answer is one of `stop_ids`, whatever vLLM thinks it is."""
    return {
        "max_tokens": limit,
        "min_tokens": params.min_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "seed": seed,
        "stop_token_ids": sorted(stop_ids),
        "ignore_eos": True,
        "detokenize": False,
        # One more: the sampled token is named first, likely or not, and takes a place.
        "logprobs": params.top_logprobs + 1,
    }


class Answer:
    """Takes vLLM's chunks, gives events up to the one with the finish reason."""

    def __init__(
        self, request: GenerateRequest, vocabulary: Vocabulary, *, limit: int, stop_ids: frozenset[int]
    ) -> None:
        self._adapter = request.adapter
        self._params = request.params
        self._vocabulary = vocabulary
        self._limit = limit
        self._stop_ids = stop_ids
        params = request.params
        self._text = IncrementalDetokenizer(vocabulary, params.stop, skip_special_tokens=params.skip_special_tokens)
        self._num_tokens = 0

    def take(self, chunk: Chunk) -> GenerateEvent:
        """The next event. Raises Unavailable if vLLM gave up, HeadwayError for logprobs that are none."""
        event = GenerateEvent.model_construct(tokens=SampledTokens(), text="", finish_reason=None)
        positions = (chunk.get("logprobs") or {}).get("content") or []
        for token_id, position in zip(chunk["token_ids"] or [], positions, strict=True):
            self._describe(event.tokens, token_id, position)
            self._advance(event, token_id)
            if event.finish_reason is not None:
                return event  # what vLLM sampled beyond a stop string is dropped
        if chunk["finish_reason"] is not None:
            raise Unavailable(f"vLLM ended the answer early ({chunk['finish_reason']}); try again")
        return event

    def _advance(self, event: GenerateEvent, token_id: int) -> None:
        self._num_tokens += 1
        ended_by_token = token_id in self._stop_ids
        if not ended_by_token:
            event.text += self._text.feed(token_id, may_stop=self._num_tokens > self._params.min_tokens)
        if ended_by_token or self._text.stopped:
            event.finish_reason = "stop"
        elif self._num_tokens >= self._limit:
            event.finish_reason = "length"
        if event.finish_reason is not None:
            event.text += self._text.flush()

    def _describe(self, tokens: SampledTokens, token_id: int, position: dict[str, Any]) -> None:
        logprob = finite_or_nan(position["logprob"])
        if not math.isfinite(logprob):
            raise HeadwayError(f"adapter {self._adapter} gives logits that are not finite")
        alternatives = self._alternatives(position["top_logprobs"]) if self._params.top_logprobs else None
        tokens.add(token_id, self._vocabulary.text_of(token_id), logprob, alternatives)
        tokens.raw |= self._vocabulary.raw_of((token_id, *(top.token_id for top in alternatives or ())))

    def _alternatives(self, tops: list[dict[str, Any]]) -> list[TopLogprob]:
        drawable = [(top["token_id"], top["logprob"]) for top in tops if math.isfinite(finite_or_nan(top["logprob"]))]
        drawable.sort(key=lambda pair: -pair[1])
        return [
            TopLogprob.model_construct(token_id=token_id, token=self._vocabulary.text_of(token_id), logprob=logprob)
            for token_id, logprob in drawable[: self._params.top_logprobs]
        ]
