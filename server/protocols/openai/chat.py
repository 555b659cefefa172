"""`POST /chat/completions`: render, sample, read the answers back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from server.context import Context
from server.http.disconnects import unless_disconnected
from server.protocols.openai.constraints import RequestedConstraint, requested_constraint
from server.protocols.openai.continuation import covered_messages
from server.protocols.openai.parameters import check_parameters
from server.protocols.openai.replies import (
    Envelope,
    chat_logprobs,
    chat_message,
    finish_reason,
    json_response,
    new_call_id,
    usage,
)
from server.protocols.openai.schemas import ChatChoice, ChatMessage, ChatRequest, Completion, FunctionCall, ToolCall
from server.protocols.openai.streaming import EventStream
from server.protocols.openai.unsupported import (
    check_logprobs,
    off_policy_settings,
    plain_messages,
    plain_tools,
)
from server.sampling.admission import SamplingKey
from server.sampling.generation import Answer, collect, generate_all, sampling_params, seeded
from server.sampling.recording import Recording, recording_of
from server.sampling.sampler_client import SamplerFailed
from server.sampling.targets import Named, Target, find_target, on_a_sampler, room_on
from store.planes.serving import Sampler
from store.rollouts import Conversation
from wire.errors import InvalidRequest
from wire.sampling import (
    CallDelta,
    GenerateEvent,
    GenerateRequest,
    MessageDelta,
    ParseOptions,
    RenderRequest,
)


async def chat(context: Context, key: SamplingKey, request: Request, body: ChatRequest) -> Response:
    """A chat completion, whole or streamed. A client that hangs up stops the sampling."""
    render = _render_request(body)
    asked = requested_constraint(body)
    named = Named("messages", asked[0] if asked else None)
    target = await find_target(context, key, body.model, body.checkpoint)
    recording = await recording_of(context, target, request)
    task = _Chat(context, target, body, render, asked, recording)
    affinity = _affinity(render.messages)
    if body.stream:
        opening = on_a_sampler(context, target, affinity, task.open_stream, named)
        first, rest = await unless_disconnected(request, opening)
        return EventStream(task.envelope, first, rest)
    reply = await unless_disconnected(request, on_a_sampler(context, target, affinity, task.answer, named))
    return json_response(task.envelope, reply)


def _affinity(messages: list[dict[str, Any]]) -> bytes:
    """What all turns of a conversation, and all conversations about one question, have in common: all up to the first
    message of the user."""
    first = next((i for i, message in enumerate(messages) if message["role"] == "user"), 0)
    return "\0".join(message["content"] for message in messages[: first + 1]).encode("utf-8", "replace")


def _render_request(body: ChatRequest) -> RenderRequest:
    """What to render. Raises InvalidRequest for whatever would not be served as asked."""
    check_parameters(body)
    check_logprobs(body)
    messages = plain_messages(body.messages)
    request = RenderRequest(
        messages=messages,
        tools=plain_tools(body.tools or []) if body.tool_choice != "none" else [],
        chat_template_kwargs=body.chat_template_kwargs or {},
    )
    if (body.prompt_token_ids is None) != (body.continuation_from is None):
        missing = "prompt_token_ids" if body.prompt_token_ids is None else "continuation_from"
        raise InvalidRequest(
            "prompt_token_ids and continuation_from belong together: send both or neither", param=missing
        )
    if body.prompt_token_ids is not None and body.continuation_from is not None:
        if not body.prompt_token_ids:
            raise InvalidRequest(
                "prompt_token_ids is empty, but continuation_from says that it covers messages; send the ids of the "
                "conversation so far, or neither field"
            )
        request.continued_ids = body.prompt_token_ids
        request.continued_messages = covered_messages(messages, body.continuation_from)
    return request


class _Chat:
    """One request on whichever sampler it lands."""

    def __init__(
        self,
        context: Context,
        target: Target,
        body: ChatRequest,
        render: RenderRequest,
        asked: RequestedConstraint | None,
        recording: Recording | None,
    ) -> None:
        self._client = context.sampler_client
        self._context = context
        self._target = target
        self._body = body
        self._render = render
        self._constraint = asked[1] if asked else None
        self._reading = ParseOptions(
            tools=render.tools,
            tool_choice=body.tool_choice or "auto",
            chat_template_kwargs=render.chat_template_kwargs,
        )
        self._recording = recording
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        self.envelope = Envelope(target, kind, off_policy_settings(body, asked))

    async def answer(self, sampler: Sampler) -> Completion:
        """The whole reply."""
        async with room_on(self._context, self._target, sampler, self._body.n):
            sequences = await self._sequences(sampler.url)
            answers = await collect(self._client, sampler.url, sequences)
        messages = [self._message(answer) for answer in answers]
        await self._record(sequences, answers, [message.model_dump(exclude_unset=True) for message in messages])
        choices = [
            self._choice(index, answer, message)
            for index, (answer, message) in enumerate(zip(answers, messages, strict=True))
        ]
        prompt_ids = answers[0].prompt_ids
        more: dict[str, Any] = {"prompt_token_ids": prompt_ids} if self._body.return_token_ids else {}
        return self.envelope.around(choices, usage=usage(len(prompt_ids), answers), **more)

    async def open_stream(self, sampler: Sampler) -> tuple[Completion, AsyncGenerator[Completion]]:
        """The first chunk, and the rest."""
        chunks = self._chunks(sampler)
        return await anext(chunks), chunks

    async def _sequences(self, url: str) -> list[GenerateRequest]:
        """One takes its chat along, for the sampler to render; of several, the chat is rendered once, before them."""
        flow = {"team": str(self._target.team_id), "call": self.envelope.id}
        prompt: dict[str, Any] = {"chat": self._render, **flow}
        if self._body.n > 1:
            render = self._render.model_copy(update=flow)
            prompt = {"prompt_token_ids": await self._client.render(url, render), **flow}
        top_logprobs = self._body.top_logprobs or 0 if self._body.logprobs else 0
        params = sampling_params(self._body, self._body.max_tokens, top_logprobs, self._constraint)
        return [
            GenerateRequest(
                adapter=self._target.adapter,
                params=seeded(params, self._body.seed, index),
                whole=not self._body.stream,
                reading=self._reading,
                **prompt,
            )
            for index in range(self._body.n)
        ]

    def _message(self, answer: Answer) -> ChatMessage:
        parsed = answer.message
        if parsed is None:
            raise SamplerFailed("the sampler did not read its answer; it is of another version than this server")
        if _one_call(self._body):
            del parsed.tool_calls[1:]
        return chat_message(parsed)

    def _choice(self, index: int, answer: Answer, message: ChatMessage) -> ChatChoice:
        ids: dict[str, Any] = {}
        if self._body.return_token_ids:
            ids = {"prompt_token_ids": answer.prompt_ids, "token_ids": answer.tokens.ids}
        return ChatChoice(
            index=index,
            message=message,
            logprobs=chat_logprobs(answer.tokens) if self._body.logprobs else None,
            finish_reason=finish_reason(answer, called=bool(message.tool_calls)),
            **ids,
        )

    async def _chunks(self, sampler: Sampler) -> AsyncGenerator[Completion]:
        async with room_on(self._context, self._target, sampler, self._body.n):
            sequences = await self._sequences(sampler.url)
            streamed = [
                _StreamedAnswer(index, self._body, sequence.prompt_token_ids)
                for index, sequence in enumerate(sequences)
            ]
            answers = [one.answer for one in streamed]
            started = False
            async with aclosing(generate_all(self._client, sampler.url, sequences)) as events:
                async for index, event in events:
                    choices = streamed[index].take(event)
                    if not started:
                        started = True
                        yield self._opening(answers[index].prompt_ids)
                    for choice in choices:
                        yield self.envelope.around([choice])
            if self._body.stream_options and self._body.stream_options.include_usage:
                total = usage(len(answers[0].prompt_ids), answers)
                yield self.envelope.around(list[ChatChoice](), usage=total)
        await self._record(sequences, answers, [one.reply() for one in streamed])

    async def _record(
        self, sequences: list[GenerateRequest], answers: list[Answer], replies: list[dict[str, Any]]
    ) -> None:
        if self._recording is None:
            return
        asked = {"tools": self._render.tools, "chat_template_kwargs": self._render.chat_template_kwargs}
        preamble = {name: value for name, value in asked.items() if value}

        def conversation_of(index: int) -> Conversation:
            return Conversation(preamble, self._body.messages, replies[index])

        await self._recording.keep(self._target, self.envelope.id, sequences, answers, conversation_of)

    def _opening(self, prompt_ids: list[int]) -> Completion:
        more: dict[str, Any] = {"prompt_token_ids": prompt_ids} if self._body.return_token_ids else {}
        choices = [
            ChatChoice(index=index, delta=ChatMessage(role="assistant", content=""), finish_reason=None, **more)
            for index in range(self._body.n)
        ]
        return self.envelope.around(choices, **more)


class _StreamedAnswer:
    """One choice of a stream. The sampler reads the answer as it comes; its deltas are passed on."""

    def __init__(self, index: int, body: ChatRequest, prompt_ids: list[int]) -> None:
        self.answer = Answer(prompt_ids)
        self._index = index
        self._body = body
        self._call_ids: dict[int, str] = {}
        self._sent: list[ChatMessage] = []

    def reply(self) -> dict[str, Any]:
        """The message that the deltas make up."""
        parts, calls = {"reasoning_content": "", "content": ""}, dict[int, dict[str, Any]]()
        for delta in self._sent:
            for name in parts:
                parts[name] += getattr(delta, name) or ""
            for call in delta.tool_calls or []:
                begun = {"id": call.id, "type": call.type, "function": {"name": call.function.name, "arguments": ""}}
                function = calls.setdefault(call.index or 0, begun)["function"]
                function["arguments"] += call.function.arguments or ""
        said: dict[str, Any] = {name: text for name, text in parts.items() if text}
        return {"role": "assistant", "content": None, **said, **({"tool_calls": list(calls.values())} if calls else {})}

    def take(self, event: GenerateEvent) -> list[ChatChoice]:
        """What there is to say about these tokens by now; at the end, why it ended."""
        self.answer.add(event)
        deltas = [delta for read in event.deltas if (delta := self._message(read)) is not None]
        self._sent += deltas
        more: dict[str, Any] = {}
        if self._body.logprobs:
            more["logprobs"] = chat_logprobs(event.tokens)
        if self._body.return_token_ids:
            more["token_ids"] = event.tokens.ids
        if more and event.tokens and not deltas:
            deltas = [ChatMessage(content="")]
        # Ids and logprobs ride on the first delta: they belong to the tokens, not to what was read out of them.
        choices = [self._choice(delta, None, **(more if i == 0 else {})) for i, delta in enumerate(deltas)]
        if event.finish_reason is not None:
            choices.append(self._choice(ChatMessage(), finish_reason(self.answer, called=bool(self._call_ids))))
        return choices

    def _message(self, read: MessageDelta) -> ChatMessage | None:
        more: dict[str, Any] = {}
        calls = [self._call(call) for call in read.tool_calls if not (call.index and _one_call(self._body))]
        if calls:
            more["tool_calls"] = calls
        for name in ("reasoning_content", "content"):
            if getattr(read, name):
                more[name] = getattr(read, name)
        return ChatMessage(**more) if more else None

    def _call(self, call: CallDelta) -> ToolCall:
        if call.index in self._call_ids:
            return ToolCall(index=call.index, function=FunctionCall(arguments=call.arguments))
        self._call_ids[call.index] = new_call_id()
        function = FunctionCall(name=call.name, arguments=call.arguments)
        return ToolCall(index=call.index, id=self._call_ids[call.index], type="function", function=function)

    def _choice(self, delta: ChatMessage, reason: str | None, **more: Any) -> ChatChoice:
        return ChatChoice(index=self._index, delta=delta, finish_reason=reason, **more)


def _one_call(body: ChatRequest) -> bool:
    return body.parallel_tool_calls is False
