"""`POST /completions`: plain text or token ids in, text out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from fastapi import Request
from fastapi.responses import Response

from server.context import Context
from server.http.disconnects import unless_disconnected
from server.protocols.openai.constraints import RequestedConstraint, requested_constraint
from server.protocols.openai.parameters import check_parameters
from server.protocols.openai.replies import Envelope, TextOffsets, completion_logprobs, json_response, usage
from server.protocols.openai.schemas import MAX_CHOICES, Completion, CompletionChoice, CompletionRequest
from server.protocols.openai.streaming import EventStream
from server.protocols.openai.unsupported import off_policy_settings
from server.sampling.admission import SamplingKey
from server.sampling.generation import Answer, collect, generate_all, sampling_params, seeded
from server.sampling.recording import Recording, recording_of
from server.sampling.targets import Named, Target, find_target, on_a_sampler, room_on
from store.planes.serving import Sampler
from store.rollouts import Conversation
from wire.errors import InvalidRequest
from wire.sampling import Flow, GenerateEvent, GenerateRequest, SampledTokens, TokenizeRequest

_AFFINE = 256
"""Prompts that begin with the same so many tokens or characters go to one sampler."""

Prompts = list[str] | list[list[int]]


async def complete(context: Context, key: SamplingKey, request: Request, body: CompletionRequest) -> Response:
    """A completion for each prompt, whole or streamed. A client that hangs up stops the sampling."""
    check_parameters(body)
    asked = requested_constraint(body)
    named = Named("prompt", asked[0] if asked else None)
    prompts = _prompts(body)
    target = await find_target(context, key, body.model, body.checkpoint)
    recording = await recording_of(context, target, request)
    task = _Completion(context, target, body, prompts, asked, recording)
    affinity = repr(prompts[0][:_AFFINE]).encode()
    if body.stream:
        opening = on_a_sampler(context, target, affinity, task.open_stream, named)
        first, rest = await unless_disconnected(request, opening)
        return EventStream(task.envelope, first, rest)
    reply = await unless_disconnected(request, on_a_sampler(context, target, affinity, task.answer, named))
    return json_response(task.envelope, reply)


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


class _Completion:
    """One request on whichever sampler it lands. Choice number = prompt number · n + answer number."""

    def __init__(
        self,
        context: Context,
        target: Target,
        body: CompletionRequest,
        prompts: Prompts,
        asked: RequestedConstraint | None,
        recording: Recording | None,
    ) -> None:
        self._client = context.sampler_client
        self._context = context
        self._target = target
        self._body = body
        self._prompts = prompts
        self._constraint = asked[1] if asked else None
        self._recording = recording
        self._num_sequences = len(prompts) * body.n
        self.envelope = Envelope(target, "text_completion", off_policy_settings(body, asked))

    async def answer(self, sampler: Sampler) -> Completion:
        """The whole reply."""
        async with room_on(self._context, self._target, sampler, self._num_sequences):
            sequences = await self._sequences(sampler.url)
            answers = await collect(self._client, sampler.url, sequences)
        await self._record(sequences, answers)
        choices = [
            self._choice(
                index,
                answer.text,
                answer.tokens,
                answer.finish_reason,
                TextOffsets(),
                sequences[index].prompt_token_ids,
            )
            for index, answer in enumerate(answers)
        ]
        return self.envelope.around(choices, usage=usage(self._num_prompt_tokens(sequences), answers))

    async def open_stream(self, sampler: Sampler) -> tuple[Completion, AsyncGenerator[Completion]]:
        """The first chunk, and the rest."""
        chunks = self._chunks(sampler)
        return await anext(chunks), chunks

    async def _sequences(self, url: str) -> list[GenerateRequest]:
        sequences = list[GenerateRequest]()
        flow = Flow(team=str(self._target.team_id), call=self.envelope.id)
        for prompt in self._prompts:
            ids = prompt if not isinstance(prompt, str) else await self._tokenized(url, prompt, flow)
            params = sampling_params(self._body, self._body.max_tokens, self._body.logprobs or 0, self._constraint)
            for _ in range(self._body.n):
                own = seeded(params, self._body.seed, len(sequences))
                sequences.append(
                    GenerateRequest(
                        adapter=self._target.adapter,
                        prompt_token_ids=ids,
                        params=own,
                        whole=not self._body.stream,
                        team=flow.team,
                        call=flow.call,
                    )
                )
        return sequences

    async def _tokenized(self, url: str, text: str, flow: Flow) -> list[int]:
        return await self._client.tokenize(url, TokenizeRequest(text=text, **dict(flow)))

    def _num_prompt_tokens(self, sequences: list[GenerateRequest]) -> int:
        return sum(len(sequence.prompt_token_ids) for sequence in sequences[:: self._body.n])

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

    async def _chunks(self, sampler: Sampler) -> AsyncGenerator[Completion]:
        async with room_on(self._context, self._target, sampler, self._num_sequences):
            sequences = await self._sequences(sampler.url)
            answers = [Answer(sequence.prompt_token_ids) for sequence in sequences]
            offsets = [TextOffsets() for _ in sequences]
            async with aclosing(generate_all(self._client, sampler.url, sequences)) as events:
                async for index, event in events:
                    yield self._chunk(index, answers[index], event, offsets[index], sequences[index].prompt_token_ids)
            if self._body.stream_options and self._body.stream_options.include_usage:
                total = usage(self._num_prompt_tokens(sequences), answers)
                yield self.envelope.around(list[CompletionChoice](), usage=total)
        await self._record(sequences, answers)

    async def _record(self, sequences: list[GenerateRequest], answers: list[Answer]) -> None:
        if self._recording is None:
            return

        def conversation_of(index: int) -> Conversation:
            prompt = self._prompts[index // self._body.n]
            preamble = {"prompt": prompt} if isinstance(prompt, str) else dict[str, Any]()
            return Conversation(preamble, [], answers[index].text)

        await self._recording.keep(self._target, self.envelope.id, sequences, answers, conversation_of)

    def _chunk(
        self, index: int, answer: Answer, event: GenerateEvent, offsets: TextOffsets, prompt_ids: list[int]
    ) -> Completion:
        is_first = not answer.tokens
        answer.add(event)
        shown_ids = prompt_ids if is_first else None
        choice = self._choice(index, event.text, event.tokens, event.finish_reason, offsets, shown_ids)
        return self.envelope.around([choice])
