"""From a request for a message to what is sampled, in the words of `server.sampling`."""

from __future__ import annotations

from typing import Any

from server.protocols.anthropic.blocks import chat_messages
from server.protocols.anthropic.parameters import check_parameters, effort_arguments, thinking_arguments
from server.protocols.anthropic.schemas import MessagesRequest, PromptRequest
from server.protocols.anthropic.tools import chat_choice, chat_tools, choice_of, forced_calls, is_single
from server.sampling.requests import Chat
from server.values.json_schemas import check_schema
from server.values.known_fields import check_fields
from wire.errors import InvalidRequest
from wire.sampling import Constraint, ParseOptions, RenderRequest, SamplingParams


def chat_of(request: PromptRequest) -> Chat:
    """The conversation. Raises InvalidRequest for whatever would not be served as asked."""
    check_parameters(request)
    choice = choice_of(request.tool_choice)
    arguments = {**thinking_arguments(request, getattr(request, "max_tokens", None)), **effort_arguments(request)}
    render = RenderRequest(
        messages=chat_messages(request.system, request.messages),
        tools=chat_tools(request.tools or []) if choice != "none" else [],
        chat_template_kwargs=arguments,
    )
    reading = ParseOptions(
        tools=render.tools, tool_choice=chat_choice(request.tool_choice), chat_template_kwargs=arguments
    )
    return Chat(render, reading, render.messages, single_call=is_single(request.tool_choice))


def sampling_params(request: MessagesRequest, chat: Chat) -> SamplingParams:
    """How to sample. Raises InvalidRequest for a constraint that makes no sense."""
    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=request.top_k or 0,
        stop=request.stop_sequences or [],
        constraint=_constraint(request, chat),
    )


def off_policy_settings(request: MessagesRequest, params: SamplingParams) -> list[str]:
    """Settings under which the logprobs of a recorded turn are not those that a trainer computes."""
    bent = {
        "temperature": params.temperature != 1,
        "top_p": params.top_p != 1,
        "top_k": params.top_k > 0,
        "output_config.format": params.constraint is not None and params.constraint.calls is None,
        "tool_choice": params.constraint is not None and params.constraint.calls is not None,
    }
    return [name for name, is_set in bent.items() if is_set]


def _constraint(request: MessagesRequest, chat: Chat) -> Constraint | None:
    asked = [*_of_the_format(request), *_of_the_calls(request, chat)]
    if len(asked) > 1:
        raise InvalidRequest("output_config.format and tool_choice both constrain the answer: send one of them")
    for constraint in asked:
        constraint.after_reasoning = chat.render.chat_template_kwargs
    return asked[0] if asked else None


def _of_the_format(request: MessagesRequest) -> list[Constraint]:
    where, given = "output_config.format", (request.output_config or {}).get("format")
    if given is None:
        return []
    if not isinstance(given, dict) or given.get("type") != "json_schema":
        raise InvalidRequest(f"{where}.type must be 'json_schema'", param=where)
    check_fields(f"{where}.", given, ("type", "schema"))
    return [Constraint(json_schema=check_schema(f"{where}.schema", given.get("schema")))]


def _of_the_calls(request: MessagesRequest, chat: Chat) -> list[Constraint]:
    found: Any = forced_calls(request.tool_choice, chat.render.tools)
    return [found] if found is not None else []
