"""Samples what a target answers to prompts, and puts it on record. Protocols, pages and the guard call it alike."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from server.sampling.answers import Answer, AnswerStream, Events
from server.sampling.collaborators import Sampling
from server.sampling.fencing import fence
from server.sampling.generation import generate_all, seeded
from server.sampling.recording import served_completion
from server.sampling.requests import Chat, PicturedPrompt, Prompt, SampleRequest, affinity
from server.sampling.sampler_client import SamplerFailed
from server.sampling.target import Target
from store.planes.serving import Sampler
from wire.sampling import Flow, GenerateRequest, TokenizeRequest


async def sample(sampling: Sampling, target: Target, request: SampleRequest) -> list[Answer]:
    """Every answer, whole and on record.

    Raises Forbidden where the rollout is of a model that is not the caller's, TooManyRequests, Unavailable,
    InvalidRequest (`param`: "constraint" where it is about that), SamplerFailed.
    """
    task = await _begin(sampling, target, request)
    return await sampling.dispatch.on_a_sampler(target, affinity(request.prompts[0]), task.whole, request.num_sequences)


async def stream(sampling: Sampling, target: Target, request: SampleRequest) -> AnswerStream:
    """The same as it comes, once its first event is there: until then a sampler that is gone is replaced."""
    task = await _begin(sampling, target, request)
    return await sampling.dispatch.on_a_sampler(
        target, affinity(request.prompts[0]), task.open_stream, request.num_sequences
    )


async def _begin(sampling: Sampling, target: Target, request: SampleRequest) -> _Task:
    began = time.monotonic()
    rollout = await fence(sampling.database, target.caller, target.model_id, request.rollout)
    if rollout is not request.rollout:
        request = replace(request, rollout=rollout)
    return _Task(sampling, target, request, began)


@dataclass(frozen=True, slots=True)
class _Task:
    """One request on whichever sampler it lands. `began`: of the monotonic clock."""

    sampling: Sampling
    target: Target
    request: SampleRequest
    began: float

    async def whole(self, sampler: Sampler) -> list[Answer]:
        """See `sample`."""
        answers = list[Answer]()
        async with aclosing(self._events(sampler, answers)) as events:
            async for _ in events:
                pass
        return answers

    async def open_stream(self, sampler: Sampler) -> AnswerStream:
        """See `stream`."""
        answers = list[Answer]()
        events = self._events(sampler, answers)
        return AnswerStream(answers, await anext(events), events)

    async def _events(self, sampler: Sampler, answers: list[Answer]) -> Events:
        """Those of all sequences; `answers` is filled with them."""
        sampling, target, request = self.sampling, self.target, self.request
        async with sampling.limits.slot(target.team_id, target.max_concurrent_rollouts):
            with sampling.dispatch.occupied(target, sampler, request.num_sequences):
                sequences = await self._sequences(sampler.url)
                answers += [self._answer(index, sequence) for index, sequence in enumerate(sequences)]
                async with aclosing(generate_all(sampling.client, sampler.url, sequences)) as events:
                    async for index, event in events:
                        answers[index].add(event)
                        yield index, event
        self._check(answers)
        if request.rollout is not None:
            recorder = sampling.recorder
            at = recorder.clock.now()
            await recorder.keep(served_completion(at, target, request, request.rollout, self.began, sequences, answers))

    async def _sequences(self, url: str) -> list[GenerateRequest]:
        target, request, sequences = self.target, self.request, list[GenerateRequest]()
        flow = Flow(team=str(target.team_id), call=request.id)
        for prompt in request.prompts:
            source = await self._source(url, prompt, flow)
            sequences += [
                GenerateRequest(
                    adapter=target.adapter,
                    params=seeded(request.params, len(sequences) + index),
                    whole=request.whole,
                    reading=prompt.reading if isinstance(prompt, Chat) else None,
                    team=flow.team,
                    call=flow.call,
                    **source,
                )
                for index in range(request.num_answers)
            ]
        return sequences

    async def _source(self, url: str, prompt: Prompt, flow: Flow) -> dict[str, Any]:
        """What to continue. One sequence takes its chat along, for the sampler to render; of several, the chat is
        rendered once, before them."""
        client = self.sampling.client
        if isinstance(prompt, list):
            return {"prompt_token_ids": prompt}
        if isinstance(prompt, PicturedPrompt):
            return {"prompt_token_ids": prompt.ids, "prompt_media": prompt.media}
        if isinstance(prompt, str):
            text = TokenizeRequest(text=prompt, team=flow.team, call=flow.call)
            return {"prompt_token_ids": await client.tokenize(url, text)}
        if self.request.num_answers == 1:
            return {"chat": prompt.render}
        render = prompt.render.model_copy(update={"team": flow.team, "call": flow.call})
        rendered = await client.render(url, render)
        return {"prompt_token_ids": rendered.token_ids, "prompt_media": rendered.media}

    def _answer(self, index: int, sequence: GenerateRequest) -> Answer:
        prompt = self.request.prompt_of(index)
        single_call = isinstance(prompt, Chat) and prompt.single_call
        return Answer(sequence.prompt_token_ids, single_call, sequence.prompt_media)

    def _check(self, answers: list[Answer]) -> None:
        if not self.request.whole:
            return
        for index, answer in enumerate(answers):
            if answer.message is None and isinstance(self.request.prompt_of(index), Chat):
                raise SamplerFailed("the sampler did not read its answer; it is of another version than this server")
