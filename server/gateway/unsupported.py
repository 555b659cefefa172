"""Parameters that would change what is sampled, and that we do not have: refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.gateway.constraints import Asked
from wire.chat import ChatRequest, SamplingRequest
from wire.errors import InvalidRequest

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "use_beam_search": (False,),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "typical_p": (1,),
    "logits_processors": ([],),
    "prompt_logprobs": (0,),
    "truncate_prompt_tokens": (-1,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "prediction": (),
    "audio": (),
    "modalities": (["text"],),
    "prompt_chunks": (),
}
_IMAGE_PARTS = ("image_url", "image", "input_image", "input_audio", "audio_url", "video_url", "file")


def check_parameters(request: SamplingRequest) -> None:
    """Raises InvalidRequest for a parameter that is set to more than its neutral value."""
    for name, value in (request.model_extra or {}).items():
        if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]:
            raise InvalidRequest(f"{name} is not supported by this server; leave it out")


def check_logprobs(request: ChatRequest) -> None:
    """Raises InvalidRequest for alternatives to logprobs that were not asked for."""
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true")


def off_policy_settings(request: SamplingRequest, asked: Asked | None) -> list[str]:
    """Settings of a training rollout under which its logprobs are not those that a trainer computes."""
    if not request.return_token_ids:
        return []
    constrained = [asked[0]] if asked else []
    truncated = {"top_p": request.top_p not in (None, 1), "top_k": (request.top_k or 0) > 0}
    bent = {"temperature": request.temperature not in (None, 1), "min_tokens": bool(request.min_tokens)}
    return [*(name for name, is_set in {**bent, **truncated}.items() if is_set), *constrained]


def plain_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with texts in one piece. Raises InvalidRequest for images, and for what is not a message."""
    return [_plain_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _plain_message(where: str, message: dict[str, Any]) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        raise InvalidRequest(f"{where}.role is {role!r}; it must be system, user, assistant or tool")
    if isinstance(content, list):
        content = "".join(_plain_part(f"{where}.content[{i}]", part) for i, part in enumerate(content))
    if content is not None and not isinstance(content, str):
        raise InvalidRequest(f"{where}.content must be a string or a list of parts")
    if content is None and role != "assistant":
        raise InvalidRequest(f"{where}.content is missing")
    _check_tool_calls(where, message.get("tool_calls"))
    return {**message, "role": role, "content": content or ""}


def _plain_part(where: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _IMAGE_PARTS:
        raise InvalidRequest(f"{where} is of type {kind!r}: image prompts are not supported yet")
    if kind not in ("text", "refusal") or not isinstance(part.get(kind), str):
        raise InvalidRequest(f"{where} must be a part of type 'text' with a text")
    return part[kind]


def _check_tool_calls(where: str, calls: Any) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        raise InvalidRequest(f"{where}.tool_calls must be a list")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"{where}.tool_calls[{index}] must be a function call with a name")
