"""`POST /chat/completions`: a conversation in, the answer read out of what was sampled."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from server.http.context import Context
from server.http.pictured_chats import take_pictures
from server.http.rollouts import rollout_of
from server.protocols.openai.answering import Named, respond
from server.protocols.openai.constraints import requested_constraint
from server.protocols.openai.continuation import covered_messages
from server.protocols.openai.parameters import check_parameters
from server.protocols.openai.replies import Envelope, chat_logprobs, chat_message, finish_reason, shown_prompt, usage
from server.protocols.openai.requests import sampling_params
from server.protocols.openai.schemas import ChatChoice, ChatMessage, ChatRequest, Completion, FunctionCall, ToolCall
from server.protocols.openai.unsupported import check_logprobs, off_policy_settings, plain_messages, plain_tools
from server.protocols.openai.upstream_chats import vendors_chat
from server.sampling.admission import SamplingKey
from server.sampling.answers import Answer, AnswerStream
from server.sampling.generation import seeded_by_turn
from server.sampling.picturing import without_picture_bytes
from server.sampling.requests import Chat, SampleRequest
from server.sampling.targets import find_target, look_up
from server.upstreams.targets import upstream_behind
from wire.errors import InvalidRequest
from wire.sampling import CallDelta, GenerateEvent, MessageDelta, ParseOptions, RenderRequest


async def chat(context: Context, key: SamplingKey, request: Request, body: ChatRequest) -> Response:
    """A chat completion, whole or streamed."""
    key = await look_up(context.sampling.keys, key, body.model, body.checkpoint)
    if (vendors := upstream_behind(key)) is not None:
        return await vendors_chat(context, request, vendors, body)
    prompt = chat_prompt(body)
    asked = requested_constraint(body)
    target = await find_target(context.sampling, key, body.model, body.checkpoint)
    rollout = without_picture_bytes(await rollout_of(request), prompt)
    prompt = await take_pictures(context, request, target, prompt)
    body.messages = prompt.messages
    params = sampling_params(body, body.max_tokens, body.top_logprobs or 0 if body.logprobs else 0, asked)
    if rollout is not None:
        params = seeded_by_turn(params, body.messages)
    sample = SampleRequest([prompt], params, body.n, whole=not body.stream, rollout=rollout)
    kind = "chat.completion.chunk" if body.stream else "chat.completion"
    reply = _ChatReply(body, Envelope(target, kind, off_policy_settings(body, asked), sample.id))
    return await respond(context.sampling, request, target, sample, reply, Named("messages", asked))


def chat_prompt(body: ChatRequest) -> Chat:
    """What is asked. Raises InvalidRequest for whatever would not be served as asked."""
    render = _render_request(body)
    reading = ParseOptions(
        tools=render.tools, tool_choice=body.tool_choice or "auto", chat_template_kwargs=render.chat_template_kwargs
    )
    return Chat(render, reading, body.messages, single_call=body.parallel_tool_calls is False)


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


class _ChatReply:
    """The reply to one request."""

    def __init__(self, body: ChatRequest, envelope: Envelope) -> None:
        self._body = body
        self.envelope = envelope

    def whole(self, answers: list[Answer]) -> Completion:
        """See Reply."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        prompt_ids = answers[0].prompt_ids
        return self.envelope.around(choices, usage=usage(len(prompt_ids), answers), **self._shown_ids(prompt_ids))

    async def chunks(self, stream: AnswerStream) -> AsyncGenerator[Completion]:
        """See Reply."""
        answers = stream.answers
        streamed = [_StreamedAnswer(index, self._body, answer) for index, answer in enumerate(answers)]
        started = False
        async with aclosing(stream):
            async for index, event in stream:
                if not started:
                    started = True
                    yield self._opening(answers[index])
                for choice in streamed[index].take(event):
                    yield self.envelope.around([choice])
        if self._body.stream_options and self._body.stream_options.include_usage:
            total = usage(len(answers[0].prompt_ids), answers)
            yield self.envelope.around(list[ChatChoice](), usage=total)

    def _choice(self, index: int, answer: Answer) -> ChatChoice:
        message = chat_message(answer)
        ids: dict[str, Any] = {}
        if self._body.return_token_ids:
            ids = {**shown_prompt(answer), "token_ids": answer.tokens.ids}
        return ChatChoice(
            index=index,
            message=message,
            logprobs=chat_logprobs(answer.tokens) if self._body.logprobs else None,
            finish_reason=finish_reason(answer, called=bool(message.tool_calls)),
            **ids,
        )

    def _opening(self, answer: Answer) -> Completion:
        shown = shown_prompt(answer) if self._body.return_token_ids else {}
        choices = [
            ChatChoice(index=index, delta=ChatMessage(role="assistant", content=""), finish_reason=None, **shown)
            for index in range(self._body.n)
        ]
        return self.envelope.around(choices, **self._shown_ids(answer.prompt_ids))

    def _shown_ids(self, prompt_ids: list[int]) -> dict[str, Any]:
        return {"prompt_token_ids": prompt_ids} if self._body.return_token_ids else {}


class _StreamedAnswer:
    """One choice of a stream. The sampler reads the answer as it comes; its deltas are passed on."""

    def __init__(self, index: int, body: ChatRequest, answer: Answer) -> None:
        self._answer = answer
        self._index = index
        self._body = body
        self._begun = set[int]()

    def take(self, event: GenerateEvent) -> list[ChatChoice]:
        """What there is to say about these tokens by now; at the end, why it ended."""
        deltas = [delta for read in event.deltas if (delta := self._message(read)) is not None]
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
            choices.append(self._choice(ChatMessage(), finish_reason(self._answer, called=bool(self._begun))))
        return choices

    def _message(self, read: MessageDelta) -> ChatMessage | None:
        more: dict[str, Any] = {}
        if read.tool_calls:
            more["tool_calls"] = [self._call(call) for call in read.tool_calls]
        for name in ("reasoning_content", "content"):
            if getattr(read, name):
                more[name] = getattr(read, name)
        return ChatMessage(**more) if more else None

    def _call(self, call: CallDelta) -> ToolCall:
        if call.index in self._begun:
            return ToolCall(index=call.index, function=FunctionCall(arguments=call.arguments))
        self._begun.add(call.index)
        function = FunctionCall(name=call.name, arguments=call.arguments)
        return ToolCall(index=call.index, id=self._answer.call_id(call.index), type="function", function=function)

    def _choice(self, delta: ChatMessage, reason: str | None, **more: Any) -> ChatChoice:
        return ChatChoice(index=self._index, delta=delta, finish_reason=reason, **more)
