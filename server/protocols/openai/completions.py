"""`POST /completions`: plain text or token ids in, text out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from fastapi import Request
from fastapi.responses import Response

from server.http.context import Context
from server.http.rollouts import rollout_of
from server.protocols.openai.answering import Named, respond
from server.protocols.openai.constraints import requested_constraint
from server.protocols.openai.parameters import check_parameters
from server.protocols.openai.replies import Envelope, TextOffsets, completion_logprobs, usage
from server.protocols.openai.requests import sampling_params
from server.protocols.openai.schemas import MAX_CHOICES, Completion, CompletionChoice, CompletionRequest
from server.protocols.openai.unsupported import off_policy_settings
from server.sampling.admission import SamplingKey
from server.sampling.answers import Answer, AnswerStream
from server.sampling.requests import SampleRequest
from server.sampling.targets import find_target
from wire.errors import InvalidRequest
from wire.sampling import SampledTokens

Prompts = list[str] | list[list[int]]


async def complete(context: Context, key: SamplingKey, request: Request, body: CompletionRequest) -> Response:
    """A completion for each prompt, whole or streamed."""
    check_parameters(body)
    asked = requested_constraint(body)
    prompts = _prompts(body)
    target = await find_target(context.sampling, key, body.model, body.checkpoint)
    sample = SampleRequest(
        prompts,
        sampling_params(body, body.max_tokens, body.logprobs or 0, asked),
        body.n,
        whole=not body.stream,
        rollout=await rollout_of(request),
    )
    reply = _CompletionReply(body, Envelope(target, "text_completion", off_policy_settings(body, asked), sample.id))
    return await respond(context.sampling, request, target, sample, reply, Named("prompt", asked))


def _prompts(body: CompletionRequest) -> Prompts:
    """The prompts as a list. Raises InvalidRequest for none, or for too many sequences."""
    prompt = body.prompt
    if isinstance(prompt, str):
        prompts: Prompts = [prompt]
    elif prompt and isinstance(prompt[0], int):
        prompts = [cast(list[int], prompt)]
    else:
        prompts = cast(Prompts, prompt)
    if not prompts:
        raise InvalidRequest("prompt is an empty list: there is nothing to continue")
    if len(prompts) * body.n > MAX_CHOICES:
        raise InvalidRequest(f"{len(prompts)} prompts times n = {body.n} are more than {MAX_CHOICES} sequences")
    return prompts


class _CompletionReply:
    """The reply to one request. Choice number = prompt number · n + answer number."""

    def __init__(self, body: CompletionRequest, envelope: Envelope) -> None:
        self._body = body
        self.envelope = envelope

    def whole(self, answers: list[Answer]) -> Completion:
        """See Reply."""
        choices = [
            self._choice(index, answer.text, answer.tokens, answer.finish_reason, TextOffsets(), answer.prompt_ids)
            for index, answer in enumerate(answers)
        ]
        return self.envelope.around(choices, usage=usage(self._num_prompt_tokens(answers), answers))

    async def chunks(self, stream: AnswerStream) -> AsyncGenerator[Completion]:
        """See Reply."""
        answers, begun = stream.answers, set[int]()
        offsets = [TextOffsets() for _ in answers]
        async with aclosing(stream):
            async for index, event in stream:
                shown_ids = None if index in begun else answers[index].prompt_ids
                if event.tokens:
                    begun.add(index)
                choice = self._choice(index, event.text, event.tokens, event.finish_reason, offsets[index], shown_ids)
                yield self.envelope.around([choice])
        if self._body.stream_options and self._body.stream_options.include_usage:
            total = usage(self._num_prompt_tokens(answers), answers)
            yield self.envelope.around(list[CompletionChoice](), usage=total)

    def _num_prompt_tokens(self, answers: list[Answer]) -> int:
        return sum(len(answer.prompt_ids) for answer in answers[:: self._body.n])

    def _choice(
        self,
        index: int,
        text: str,
        tokens: SampledTokens,
        reason: str | None,
        offsets: TextOffsets,
        prompt_ids: list[int] | None,
    ) -> CompletionChoice:
        more: dict[str, Any] = {}
        if self._body.return_token_ids:
            more["token_ids"] = tokens.ids
            if prompt_ids is not None:
                more["prompt_token_ids"] = prompt_ids
        logprobs = completion_logprobs(tokens, offsets) if self._body.logprobs is not None else None
        return CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=reason, **more)
