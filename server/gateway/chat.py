"""`POST /chat/completions`: render, sample, read the answers back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from server.context import Context
from server.gateway.continuation import covered_messages
from server.gateway.generation import Answer, collect, generate_all, sampling_params, seeded
from server.gateway.recording import Recording, recording_of
from server.gateway.replies import (
    Envelope,
    chat_logprobs,
    chat_message,
    finish_reason,
    json_response,
    tool_call,
    usage,
)
from server.gateway.streaming import EventStream
from server.gateway.targets import Target, find_target, on_a_sampler, room_on
from server.gateway.unsupported import (
    check_logprobs,
    check_parameters,
    check_tool_choice,
    off_policy_settings,
    plain_messages,
)
from server.hang_up import unless_hung_up
from store.rollouts import Conversation
from store.serving import Sampler
from wire.chat import ChatChoice, ChatMessage, ChatRequest, Completion
from wire.errors import InvalidRequest
from wire.sampling import DerenderRequest, GenerateEvent, GenerateRequest, ParsedMessage, RenderRequest

_REASONING_TAG = "<think>"


async def chat(context: Context, key: str, request: Request, body: ChatRequest) -> Response:
    """A chat completion, whole or streamed. A client that hangs up stops the sampling."""
    render = _render_request(body)
    target = await find_target(context, key, body.model, body.checkpoint)
    task = _Chat(context, target, body, render, recording_of(context, request))
    affinity = _affinity(render.messages)
    if body.stream:
        first, rest = await unless_hung_up(request, on_a_sampler(context, target, affinity, task.open_stream))
        return EventStream(task.envelope, first, rest)
    reply = await unless_hung_up(request, on_a_sampler(context, target, affinity, task.answer))
    return json_response(task.envelope, reply)


def _affinity(messages: list[dict[str, Any]]) -> bytes:
    """What all turns of a conversation, and all conversations about one question, have in common: all up to the first
    message of the user."""
    first = next((i for i, message in enumerate(messages) if message["role"] == "user"), 0)
    return "\0".join(message["content"] for message in messages[: first + 1]).encode("utf-8", "replace")


def _render_request(body: ChatRequest) -> RenderRequest:
    """What to render. Raises InvalidRequest for whatever would not be served as asked."""
    check_parameters(body)
    check_tool_choice(body)
    check_logprobs(body)
    messages = plain_messages(body.messages)
    request = RenderRequest(
        messages=messages,
        tools=_checked_tools(body) if body.tool_choice != "none" else [],
        chat_template_kwargs=body.chat_template_kwargs or {},
    )
    if (body.prompt_token_ids is None) != (body.continuation_from is None):
        raise InvalidRequest("prompt_token_ids and continuation_from belong together: send both or neither")
    if body.prompt_token_ids is not None and body.continuation_from is not None:
        request.continued_ids = body.prompt_token_ids
        request.continued_messages = covered_messages(messages, body.continuation_from)
    return request


def _checked_tools(body: ChatRequest) -> list[dict[str, Any]]:
    for index, tool in enumerate(body.tools or []):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict) or not function.get("name"):
            raise InvalidRequest(f"tools[{index}] must be of type 'function' and name its function")
    return body.tools or []


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A rendered chat and the sequences to sample after it."""

    ids: list[int]
    sequences: list[GenerateRequest]


class _Chat:
    """One request on whichever sampler it lands."""

    def __init__(
        self,
        context: Context,
        target: Target,
        body: ChatRequest,
        render: RenderRequest,
        recording: Recording | None,
    ) -> None:
        self._client = context.sampler_client
        self._context = context
        self._target = target
        self._body = body
        self._render = render
        self._recording = recording
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        self.envelope = Envelope(target, kind, off_policy_settings(body))

    async def answer(self, sampler: Sampler) -> Completion:
        """The whole reply."""
        async with room_on(self._context, self._target, sampler, self._body.n):
            prompt = await self._prompt(sampler.url)
            answers = await collect(generate_all(self._client, sampler.url, prompt.sequences), self._body.n)
            parsed = await asyncio.gather(*(self._derender(sampler.url, answer) for answer in answers))
        await self._record(prompt, answers, parsed)
        choices = [
            self._choice(index, answer, message, prompt)
            for index, (answer, message) in enumerate(zip(answers, parsed, strict=True))
        ]
        more: dict[str, Any] = {"prompt_token_ids": prompt.ids} if self._body.return_token_ids else {}
        return self.envelope.around(choices, usage=usage(len(prompt.ids), answers), **more)

    async def open_stream(self, sampler: Sampler) -> tuple[Completion, AsyncGenerator[Completion]]:
        """The first chunk, and the rest."""
        chunks = self._chunks(sampler)
        return await anext(chunks), chunks

    async def _prompt(self, url: str) -> _Prompt:
        ids = await self._client.render(url, self._render)
        top_logprobs = self._body.top_logprobs or 0 if self._body.logprobs else 0
        params = sampling_params(self._body, self._body.max_tokens, top_logprobs, ids, self._target.info)
        sequences = [
            GenerateRequest(
                adapter=self._target.adapter,
                prompt_token_ids=ids,
                params=seeded(params, self._body.seed, index),
                whole=not self._body.stream,
            )
            for index in range(self._body.n)
        ]
        return _Prompt(ids, sequences)

    async def _derender(self, url: str, answer: Answer) -> ParsedMessage:
        request = DerenderRequest(token_ids=answer.token_ids, text=answer.text, tools=self._render.tools)
        parsed = await self._client.derender(url, request)
        if (self._body.model_extra or {}).get("parallel_tool_calls") is False:
            del parsed.tool_calls[1:]
        return parsed

    def _choice(self, index: int, answer: Answer, parsed: ParsedMessage, prompt: _Prompt) -> ChatChoice:
        ids: dict[str, Any] = {}
        if self._body.return_token_ids:
            ids = {"prompt_token_ids": prompt.ids, "token_ids": answer.token_ids}
        return ChatChoice(
            index=index,
            message=chat_message(parsed),
            logprobs=chat_logprobs(answer.tokens) if self._body.logprobs else None,
            finish_reason=finish_reason(answer, parsed),
            **ids,
        )

    async def _chunks(self, sampler: Sampler) -> AsyncGenerator[Completion]:
        async with room_on(self._context, self._target, sampler, self._body.n):
            prompt = await self._prompt(sampler.url)
            answers = [_StreamedAnswer(index, self._body, self._render) for index in range(self._body.n)]
            replies = dict[int, ParsedMessage]()
            started = False
            async with aclosing(generate_all(self._client, sampler.url, prompt.sequences)) as events:
                async for index, event in events:
                    if not started:
                        started = True
                        yield self._opening(prompt)
                    if choice := answers[index].take(event):
                        yield self.envelope.around([choice])
                    if event.finish_reason is not None:
                        parsed = replies[index] = await self._derender(sampler.url, answers[index].answer)
                        for choice in answers[index].finish(parsed):
                            yield self.envelope.around([choice])
            if self._body.stream_options and self._body.stream_options.include_usage:
                total = usage(len(prompt.ids), [streamed.answer for streamed in answers])
                yield self.envelope.around(list[ChatChoice](), usage=total)
        if len(replies) == len(answers):
            parsed = [replies[index] for index in range(len(answers))]
            await self._record(prompt, [streamed.answer for streamed in answers], parsed)

    async def _record(self, prompt: _Prompt, answers: list[Answer], parsed: list[ParsedMessage]) -> None:
        if self._recording is None:
            return
        asked = {"tools": self._render.tools, "chat_template_kwargs": self._render.chat_template_kwargs}
        preamble = {name: value for name, value in asked.items() if value}

        def conversation_of(index: int) -> Conversation:
            reply = chat_message(parsed[index]).model_dump(exclude_unset=True)
            return Conversation(preamble, self._body.messages, reply)

        await self._recording.keep(self._target, self.envelope.id, prompt.sequences, answers, conversation_of)

    def _opening(self, prompt: _Prompt) -> Completion:
        more: dict[str, Any] = {"prompt_token_ids": prompt.ids} if self._body.return_token_ids else {}
        choices = [
            ChatChoice(index=index, delta=ChatMessage(role="assistant", content=""), finish_reason=None, **more)
            for index in range(self._body.n)
        ]
        return self.envelope.around(choices, **more)


class _StreamedAnswer:
    """One choice of a stream. Text that may turn out to be reasoning or a tool call is held back to the end."""

    def __init__(self, index: int, body: ChatRequest, render: RenderRequest) -> None:
        self.answer = Answer()
        self._index = index
        self._body = body
        self._has_tools = bool(render.tools)
        self._sent = 0

    def take(self, event: GenerateEvent) -> ChatChoice | None:
        """The delta for these tokens, if there is anything to say about them yet."""
        self.answer.add(event)
        text = "" if self._holds_back() else self.answer.text[self._sent :]
        self._sent += len(text)
        more: dict[str, Any] = {}
        if self._body.logprobs:
            more["logprobs"] = chat_logprobs(event.tokens)
        if self._body.return_token_ids:
            more["token_ids"] = [token.token_id for token in event.tokens]
        if not text and not (more and event.tokens):
            return None
        return self._delta(ChatMessage(content=text), None, **more)

    def finish(self, parsed: ParsedMessage) -> list[ChatChoice]:
        """What was held back, and why it ended."""
        deltas = list[ChatMessage]()
        if not self._sent:
            if parsed.reasoning_content:
                deltas.append(ChatMessage(reasoning_content=parsed.reasoning_content))
            if parsed.content:
                deltas.append(ChatMessage(content=parsed.content))
            calls = [tool_call(call, index=number) for number, call in enumerate(parsed.tool_calls)]
            if calls:
                deltas.append(ChatMessage(tool_calls=calls))
        return [
            *(self._delta(delta, None) for delta in deltas),
            self._delta(ChatMessage(), finish_reason(self.answer, parsed)),
        ]

    def _holds_back(self) -> bool:
        start = self.answer.text.lstrip()[: len(_REASONING_TAG)]
        return self._has_tools or (not self._sent and _REASONING_TAG.startswith(start))

    def _delta(self, delta: ChatMessage, reason: str | None, **more: Any) -> ChatChoice:
        return ChatChoice(index=self._index, delta=delta, finish_reason=reason, **more)
