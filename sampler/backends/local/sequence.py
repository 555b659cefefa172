"""One request in the local sampler: its tokens so far, and when it ends."""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Literal

from sampler.backends.local.adapter_files import Adapter
from sampler.backends.local.constraints import Form
from sampler.backends.local.event_stream import EventStream
from sampler.backends.local.token_sampling import RowSampling, SampledToken
from sampler.backends.local.vision import Shown
from sampler.incremental_detokenizer import IncrementalDetokenizer
from sampler.vocabulary import Vocabulary
from wire.media_items import media_of
from wire.sampling import GenerateEvent, GenerateRequest, SampledTokens, TopLogprob

_LEAST_PROGRESS = 16
_RECOMPUTED_A_TOKEN = 64
"""So many tokens of a prompt cost about as much as one step."""
_GREEDY_BELOW = 1e-5  # as vLLM: dividing by less only makes infinities

FinishReason = Literal["stop", "length"]


class Sequence:
    """`ids` are the prompt and what was sampled; the first `cached` of them have their keys and values in `row`.
    `shown`: what the prompt shows, of a base that sees.

    Owned by the engine's thread once submitted, but for `cancelled`, which anyone may set.
    """

    def __init__(
        self,
        request: GenerateRequest,
        adapter: Adapter,
        *,
        draws: random.Random,
        vocabulary: Vocabulary,
        eos_ids: frozenset[int],
        max_new_tokens: int,
        stream: EventStream,
        form: Form | None = None,
        shown: Shown | None = None,
    ) -> None:
        self.team = request.team
        self.call: Hashable = request.call or self
        self.adapter = adapter
        self.params = request.params
        self.stream = stream
        self.num_prompt = len(request.prompt_token_ids)
        self.ids = list(request.prompt_token_ids)
        self.shown = shown
        self._media = media_of(request.prompt_media)
        self.row = -1
        self.cached = 0
        self.cancelled = False
        self.joined_at = 0  # tokens it had when it last got its row
        self._draws = draws
        self._vocabulary = vocabulary
        self._max_new_tokens = max_new_tokens
        self._stop_ids = frozenset(self.params.stop_token_ids) | (frozenset() if self.params.ignore_eos else eos_ids)
        self._text = IncrementalDetokenizer(
            vocabulary, self.params.stop, skip_special_tokens=self.params.skip_special_tokens
        )
        self._form = form

    @property
    def num_new(self) -> int:
        """Tokens sampled so far."""
        return len(self.ids) - self.num_prompt

    @property
    def may_be_set_back(self) -> bool:
        """Whether it has come on enough since it got its row to make up for computing it again."""
        return len(self.ids) - self.joined_at >= max(_LEAST_PROGRESS, len(self.ids) // _RECOMPUTED_A_TOKEN)

    @property
    def at_prompt_end(self) -> bool:
        """Whether the next token is the first one."""
        return len(self.ids) == self.num_prompt

    def same_prompt(self, other: Sequence) -> bool:
        """Whether keys and values of the prompt are the same, and so can be shared: those of other pictures behind the
        same ids are others."""
        return (
            self.adapter is other.adapter
            and self.num_prompt == other.num_prompt
            and self._media == other._media
            and self.ids[: self.num_prompt] == other.ids[: other.num_prompt]
        )

    def next_choice(self) -> RowSampling:
        """How to sample the next token; takes one number from this sequence's stream."""
        params = self.params
        return RowSampling(
            temperature=params.temperature if params.temperature >= _GREEDY_BELOW else 0.0,
            top_k=params.top_k,
            top_p=params.top_p,
            uniform=self._draws.random(),
            top_logprobs=params.top_logprobs,
            banned=tuple(self._stop_ids) if self.num_new < params.min_tokens else (),
            allowed_V=self._form.allowed_V() if self._form else None,
        )

    def accept(self, chosen: SampledToken) -> GenerateEvent:
        """Append the token that was drawn. The event has a finish reason if it was the last."""
        self.ids.append(chosen.token_id)
        complete = self._form.take(chosen.token_id) if self._form else False
        ended_by_token = chosen.token_id in self._stop_ids
        may_stop = self.num_new > self.params.min_tokens
        text = "" if ended_by_token else self._text.feed(chosen.token_id, may_stop=may_stop)
        finish_reason = "stop" if complete else self._finish_reason(ended_by_token)
        if finish_reason is not None:
            text += self._text.flush()
        # model_construct: these are ours, and validating every token costs more than sampling it.
        return GenerateEvent.model_construct(tokens=self._described(chosen), text=text, finish_reason=finish_reason)

    @property
    def unkept(self) -> str:
        """Why the form that the answer should have cannot be kept to; else empty."""
        return self._form.error if self._form else ""

    def _finish_reason(self, ended_by_token: bool) -> FinishReason | None:
        if ended_by_token or self._text.stopped:
            return "stop"
        return "length" if self.num_new >= self._max_new_tokens else None

    def _described(self, chosen: SampledToken) -> SampledTokens:
        text_of = self._vocabulary.text_of
        alternatives = [
            TopLogprob.model_construct(token_id=token_id, token=text_of(token_id), logprob=logprob)
            for token_id, logprob in chosen.alternatives
        ]
        tokens = SampledTokens()
        asked = alternatives if self.params.top_logprobs else None
        tokens.add(chosen.token_id, text_of(chosen.token_id), chosen.logprob, asked)
        tokens.raw = self._vocabulary.raw_of((chosen.token_id, *(top.token_id for top in alternatives)))
        return tokens
