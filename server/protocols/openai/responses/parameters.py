"""Every field of a request for a response is served, neutral or refused by name, as in chats
(docs/decisions/0037-parameter-allow-list.md)."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from server.protocols.openai.responses.schemas import ResponseRequest
from server.values.finite_numbers import check_finite
from server.values.known_fields import ANY, check_fields
from wire.errors import InvalidRequest

UNSERVED: Mapping[str, Container[Any]] = {
    # Who asks, what for, how urgently, and what is to be kept.
    "user": ANY,
    "safety_identifier": ANY,
    "service_tier": ANY,
    "store": ANY,  # what is recorded is decided by the Trace-Id
    "prompt_cache_key": ANY,
    "prompt_cache_options": ANY,
    "prompt_cache_retention": ANY,
    "max_tool_calls": ANY,  # counts the vendor's own tools, of which none are served
    # What is sampled, from what, and when.
    "truncation": ("disabled",),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "prompt": (),
    "moderation": (),
    "image": (),
    "access_programs": (),
}
"""At which values other fields of the API change nothing."""

LOGPROBS = "message.output_text.logprobs"
_INCLUDED = (LOGPROBS, "reasoning.encrypted_content")
_OF_VENDORS_TOOLS = ("file_search_call", "web_search_call", "computer_call_output", "code_interpreter_call")
"""What these would include is of tools that no response here has used."""
_TEXT: Mapping[str, Container[Any]] = {"verbosity": ("medium",)}
_STREAM_OPTIONS: Mapping[str, Container[Any]] = {"include_obfuscation": ANY}  # there is none to leave out
_REASONING: Mapping[str, Container[Any]] = {"context": ("auto",), "mode": ("standard",)}


def check_parameters(request: ResponseRequest) -> None:
    """Raises InvalidRequest for a field that is neither served nor neutral, or holds a number that is not finite."""
    check_finite(request)
    check_fields("", request.model_extra or {}, ResponseRequest.model_fields, UNSERVED)
    check_fields("text.", request.text or {}, ("format",), _TEXT)
    check_fields("reasoning.", request.reasoning or {}, ("effort", "summary", "generate_summary"), _REASONING)
    check_fields("stream_options.", request.stream_options or {}, (), _STREAM_OPTIONS)
    for index, name in enumerate(request.include or []):
        if name not in _INCLUDED and name.partition(".")[0] not in _OF_VENDORS_TOOLS:
            raise InvalidRequest(f"include[{index}] is not served; leave it out", param=f"include[{index}]")
    if request.top_logprobs and not shows_logprobs(request):
        raise InvalidRequest(f"top_logprobs needs {LOGPROBS!r} in include", param="top_logprobs")


def shows_logprobs(request: ResponseRequest) -> bool:
    """Whether the reply is to have them."""
    return LOGPROBS in (request.include or [])


def shows_summary(request: ResponseRequest) -> bool:
    """Whether a summary of the reasoning is asked for."""
    asked = request.reasoning or {}
    return asked.get("summary") is not None or asked.get("generate_summary") is not None


def effort_arguments(request: ResponseRequest) -> dict[str, Any]:
    """What `reasoning.effort` says to a chat template: `reasoning_effort`."""
    effort = (request.reasoning or {}).get("effort")
    if effort is None:
        return {}
    if not isinstance(effort, str):
        raise InvalidRequest("reasoning.effort must be a text", param="reasoning.effort")
    return {"reasoning_effort": effort}
