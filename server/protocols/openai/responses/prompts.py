"""From a request for a response to what is sampled: a response is a chat in other words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.protocols.openai.chat import chat_prompt
from server.protocols.openai.constraints import RequestedConstraint, requested_constraint
from server.protocols.openai.requests import sampling_params
from server.protocols.openai.responses.items import Message, chat_messages, without_instructions
from server.protocols.openai.responses.parameters import check_parameters, effort_arguments
from server.protocols.openai.responses.schemas import ResponseRequest
from server.protocols.openai.responses.tools import chat_choice, chat_tools
from server.protocols.openai.schemas import ChatRequest
from server.sampling.image_parts import image_part
from server.sampling.requests import PICTURE, Chat
from server.values.json_schemas import check_schema
from server.values.known_fields import check_fields
from server.values.validation_messages import read_as
from store.rollouts import RecordedSample
from wire.errors import InvalidRequest, NotFound
from wire.pictures import location_of
from wire.sampling import Constraint, SamplingParams

ID_PREFIX = "resp_"


def as_chat(request: ResponseRequest, turns: Sequence[RecordedSample]) -> ChatRequest:
    """The same conversation as a chat. `turns`: recorded ones of the rollout, among which a previous response is looked
    up. Raises InvalidRequest for whatever would not be served as asked, NotFound."""
    check_parameters(request)
    history = _history(request.previous_response_id, turns) if request.previous_response_id is not None else []
    fields: dict[str, Any] = {
        "model": request.model,
        "messages": chat_messages(request.instructions, history, request.input),
        "tools": chat_tools(request.tools or []) or None,
        "tool_choice": chat_choice(request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls,
        "chat_template_kwargs": effort_arguments(request) or None,
        "max_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
    }
    return read_as(ChatRequest, {name: value for name, value in fields.items() if value is not None})


def prompt_of(chat: ChatRequest) -> Chat:
    """The conversation, rendered by the sampler."""
    return chat_prompt(chat)


def constraint_of(request: ResponseRequest, chat: ChatRequest) -> RequestedConstraint | None:
    """The one constraint of a request. Raises InvalidRequest for one that makes no sense, and for both."""
    asked, forced = _of_the_format(request), requested_constraint(chat)
    if asked is not None and forced is not None:
        raise InvalidRequest(f"{asked[0]} and {forced[0]} both constrain the answer: send one of them", param=forced[0])
    if asked is not None:
        asked[1].after_reasoning = chat.chat_template_kwargs or {}
    return asked or forced


def params_of(request: ResponseRequest, chat: ChatRequest, asked: RequestedConstraint | None) -> SamplingParams:
    """How to sample."""
    return sampling_params(chat, request.max_output_tokens, request.top_logprobs or 0, asked)


def _history(previous_id: str, turns: Sequence[RecordedSample]) -> list[Message]:
    """The conversation up to a response of this rollout, and its answer."""
    name = previous_id.removeprefix(ID_PREFIX)
    for turn in reversed(turns):
        if turn.completion_id == name and turn.conversation is not None:
            return [*map(_sent_again, without_instructions(turn.conversation.messages)), turn.conversation.reply]
    raise NotFound(
        "previous_response_id names no response on record in this rollout: responses are kept under the Trace-Id that "
        "their request had, and found by requests with the same one; without it, send the whole conversation as input",
        param="previous_response_id",
    )


def _sent_again(message: Message) -> Message:
    """A recorded message, with its pictures as if they were sent by their names."""
    if not isinstance(message.get("content"), list):
        return message
    where = "previous_response_id"
    parts = [image_part(where, location_of(p["name"])) if p["type"] == PICTURE else p for p in message["content"]]
    return {**message, "content": parts}


def _of_the_format(request: ResponseRequest) -> RequestedConstraint | None:
    where, given = "text.format", (request.text or {}).get("format")
    kind = given.get("type") if isinstance(given, dict) else None
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        check_fields(f"{where}.", given, ("type",))
        return where, Constraint(json_schema={"type": "object"})
    if kind != "json_schema":
        raise InvalidRequest(f"{where}.type must be 'text', 'json_object' or 'json_schema'", param=where)
    check_fields(f"{where}.", given, ("type", "name", "description", "schema", "strict"))
    try:
        return where, Constraint(json_schema=check_schema(f"{where}.schema", given.get("schema")))
    except InvalidRequest as error:
        error.param = f"{where}.schema"
        raise
