"""Every parameter of a chat or a completion is served, neutral or refused by name: none is ignored that could change
what is sampled or what the reply holds.

Served are the fields of the requests in `server.protocols.openai.schemas`. Neutral is what changes neither, whatever
its value, and what has the value at which it changes nothing. All else is refused, also a name that nobody knows: a
misspelled `temperature` would otherwise be sampled at 1. A field that is null counts as left out.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from typing import Any, Literal

from server.protocols.openai.schemas import ChatRequest, CompletionRequest, SamplingRequest
from server.values.finite_numbers import check_finite
from server.values.known_fields import ANY, check_fields
from wire.errors import InvalidRequest

Standing = Literal["served", "neutral", "refused", "unknown"]

_UNSERVED: Mapping[str, Container[Any]] = {
    # Who asks, what for, and how urgently.
    "user": ANY,
    "metadata": ANY,
    "store": ANY,
    "service_tier": ANY,
    "safety_identifier": ANY,
    "prompt_cache_key": ANY,
    "prompt_cache_options": ANY,
    "prompt_cache_retention": ANY,
    "request_id": ANY,
    "session_id": ANY,
    "rid": ANY,
    "priority": ANY,
    "cache_salt": ANY,
    "cache_prompt": ANY,
    "stream_interval": ANY,
    "truncation_side": ANY,  # says how truncate_prompt_tokens truncates, which is refused
    # What is sampled from.
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "repetition_detection": (),
    "length_penalty": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "logit_bias": ({},),
    "logits_processors": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "structural_tag": (),
    "thinking_token_budget": (),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "use_beam_search": (False,),
    "best_of": (1,),
    "watermarking": (False,),
    "vllm_xargs": ({},),
    # What is sampled after.
    "echo": (False,),
    "truncate_prompt_tokens": (-1,),
    "prompt_chunks": (),
    "kv_transfer_params": (),
    "ec_transfer_params": (),
    # What the reply holds.
    "prompt_logprobs": (0,),
    "logprob_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "no_stop_trim": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
    "return_token_offsets": (False,),
    "return_hidden_states": (False,),
    "return_mm_kwargs": (False,),
    "routed_experts_prompt_start": (0,),
    "mm_payload": ANY,  # says how return_mm_kwargs returns them, which is refused
}
_UNSERVED_IN_CHATS: Mapping[str, Container[Any]] = {
    **_UNSERVED,
    "add_special_tokens": (False,),  # the chat template writes them
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "documents": ([],),
    "reasoning_effort": (),
    "thinking": (),
    "verbosity": (),
    "include_reasoning": (True,),
    "separate_reasoning": (True,),
    "stream_reasoning": (True,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "prediction": (),
    "moderation": (),
    "web_search_options": (),
    "audio": (),
    "modalities": (["text"],),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "return_prompt_text": (False,),
}
_UNSERVED_IN_COMPLETIONS: Mapping[str, Container[Any]] = {
    **_UNSERVED,
    "add_special_tokens": (True,),  # the tokenizer's own, around a text
    "suffix": ("",),
    "prompt_embeds": (),
}
_SERVED_STREAM_OPTIONS = ("include_usage",)
_UNSERVED_STREAM_OPTIONS: Mapping[str, Container[Any]] = {
    "include_obfuscation": ANY,  # there is none to leave out
    "continuous_usage_stats": (False,),
}
_ALIASES = ("max_tokens", "max_completion_tokens")
_LISTS_OF_IDS = ("prompt", "prompt_token_ids", "stop_token_ids")


def check_parameters(request: SamplingRequest) -> None:
    """Raises InvalidRequest for a parameter that is neither served nor neutral, or holds a number that is not
    finite."""
    kind = type(request)
    if request.model_extra:
        given = {name: value for name, value in request.model_extra.items() if not _is_alias(request, name, value)}
        check_fields("", given, served_parameters(kind), _unserved(kind))
    if request.stream_options and request.stream_options.model_extra:
        options = request.stream_options.model_extra
        check_fields("stream_options.", options, _SERVED_STREAM_OPTIONS, _UNSERVED_STREAM_OPTIONS)
    check_finite(request, _LISTS_OF_IDS)


def standing(kind: type[SamplingRequest], name: str) -> Standing:
    """What becomes of a parameter of this kind of request. Refused: unless it has a value that changes nothing."""
    if name in served_parameters(kind):
        return "served"
    if name not in _unserved(kind):
        return "unknown"
    return "neutral" if _unserved(kind)[name] is ANY else "refused"


def served_parameters(kind: type[SamplingRequest]) -> Collection[str]:
    """The names of what this kind of request may say, aliases included."""
    return _SERVED[kind]


def _unserved(kind: type[SamplingRequest]) -> Mapping[str, Container[Any]]:
    return _UNSERVED_IN_CHATS if kind is ChatRequest else _UNSERVED_IN_COMPLETIONS


def _is_alias(request: SamplingRequest, name: str, value: object) -> bool:
    """Whether a field repeats what another name of it has said. Raises InvalidRequest where they differ."""
    if not isinstance(request, ChatRequest) or name not in _ALIASES:
        return False
    if value not in (None, request.max_tokens):
        names = " and ".join(_ALIASES)
        raise InvalidRequest(f"{names} differ, and mean the same; send one of them", param=name)
    return True


_SERVED: Mapping[type[SamplingRequest], Collection[str]] = {
    ChatRequest: frozenset({*ChatRequest.model_fields, *_ALIASES}),
    CompletionRequest: frozenset(CompletionRequest.model_fields),
}
