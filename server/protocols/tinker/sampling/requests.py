"""What a request to sample asks for, as the SDK writes it. A field that would change the answer and is not served is
refused by its name."""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from server.pictures.prompts import ChunkedPrompt
from server.sampling_sessions.calls import SampleCall, TargetMatrix
from server.values.validation_messages import invalid_request
from wire.errors import InvalidRequest
from wire.extension import TokenSequence
from wire.prompt_chunks import TEXT, read_chunks
from wire.sampling import MAX_TOP_PROMPT_LOGPROBS

_MOST_ANSWERS = 1024
_MOST_STOPS = 64
_MOST_TOP = 20

_Stops: TypeAlias = Annotated[list[StrictStr], Field(max_length=_MOST_STOPS, fail_fast=True)]
_StopIds: TypeAlias = Annotated[list[StrictInt], Field(max_length=_MOST_STOPS, fail_fast=True)]


class _Params(BaseModel):
    """`sampling_params`: nothing in it is left out."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    seed: int | None = None
    stop: StrictStr | _Stops | _StopIds | None = None
    temperature: float = Field(default=1.0, ge=0.0)
    top_k: int = Field(default=-1, ge=-1, lt=2**31)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)


class _Tensor(BaseModel):
    """A matrix of token ids; with row pointers and column indices, its listed entries."""

    model_config = ConfigDict(extra="forbid", strict=True)

    data: list[int] = Field(fail_fast=True)
    dtype: str
    shape: list[int] | None = None
    sparse_crow_indices: list[int] | None = Field(default=None, fail_fast=True)
    sparse_col_indices: list[int] | None = Field(default=None, fail_fast=True)


class _Asked(BaseModel):
    """The rest. Fields of newer releases are left out."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    num_samples: int = Field(default=1, ge=1, le=_MOST_ANSWERS)
    sampling_params: _Params = Field(default_factory=_Params)
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: int = Field(default=0, ge=0, le=MAX_TOP_PROMPT_LOGPROBS)
    topk_sample_logprobs: int = Field(default=0, ge=0, le=_MOST_TOP)
    target_prompt_logprobs: _Tensor | None = None
    prompt_logprobs_last_n: int | None = Field(default=None, ge=1)
    prompt_alt_tokens_k: int = 0
    record_stability_info: bool | None = None


def num_samples_of(sent: dict[str, Any]) -> int:
    """How many answers a request asks for, also one that makes no sense."""
    number = sent.get("num_samples", 1)
    return number if type(number) is int and 1 <= number <= _MOST_ANSWERS else 1


def read_prompt(sent: dict[str, Any]) -> ChunkedPrompt:
    """The chunks of the prompt. Raises InvalidRequest."""
    prompt = sent.get("prompt")
    chunks: Any = prompt.get("chunks") if isinstance(prompt, dict) else None
    if not isinstance(chunks, list):
        raise InvalidRequest("prompt: must be an object with a list of chunks", param="prompt")
    return ChunkedPrompt("prompt", read_chunks("prompt", [_as_read(chunk) for chunk in chunks]))


def _as_read(chunk: Any) -> Any:
    """A text's ids as an array; a chunk that does not say what it is is text."""
    if not isinstance(chunk, dict) or chunk.get("type", TEXT) != TEXT:
        return chunk
    try:
        ids = np.array(array("i", chunk["tokens"]), np.int32)
    except (KeyError, TypeError, OverflowError):
        raise InvalidRequest("the tokens of a chunk must be a list of token ids", param="prompt") from None
    if len(ids) and ids.min() < 0:
        raise InvalidRequest("the prompt has a negative token id", param="prompt")
    return {"type": TEXT, "tokens": ids}


def read_call(sent: dict[str, Any], prompt: TokenSequence) -> SampleCall:
    """What is asked about a prompt that was read already. Raises InvalidRequest for what makes no sense, and for what
    is not served."""
    if not len(prompt):
        raise InvalidRequest("the prompt is empty: there is nothing to continue", param="prompt")
    try:
        asked = _Asked.model_validate({key: value for key, value in sent.items() if value is not None})
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False, include_input=False)) from None
    _refuse_unserved(asked)
    _check_last_n(asked, len(prompt))
    params = asked.sampling_params
    stop, stop_ids = _stops(params.stop)
    return SampleCall(
        prompt=prompt.ids.tolist(),
        media=prompt.media,
        num_answers=asked.num_samples,
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_k=max(params.top_k, 0),
        top_p=params.top_p,
        stop=stop,
        stop_ids=stop_ids,
        ignore_eos=params.stop == [],
        seed=secrets.randbits(63) if params.seed is None else _folded(params.seed),
        draws_seed=params.seed is None,
        top_logprobs=asked.topk_sample_logprobs,
        wants_prompt_logprobs=bool(asked.prompt_logprobs),
        top_prompt_logprobs=asked.topk_prompt_logprobs,
        last_n=asked.prompt_logprobs_last_n,
        targets=None
        if asked.target_prompt_logprobs is None
        else _targets(asked.target_prompt_logprobs, len(prompt) - 1),
    )


def _stops(stop: str | Sequence[str] | Sequence[int] | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    listed = [stop] if isinstance(stop, str) else list(stop or ())
    strings = tuple(one for one in listed if isinstance(one, str))
    if "" in strings:
        raise InvalidRequest("a stop string is empty", param="stop")
    return strings, tuple(one for one in listed if not isinstance(one, str))


def _folded(seed: int) -> int:
    """A seed of any size in 63 bits. Those of neighbours are far apart, for the answers to one request count on."""
    return int.from_bytes(blake2b(str(seed).encode(), digest_size=8).digest()) >> 1


def _refuse_unserved(asked: _Asked) -> None:
    for field, value in (
        ("prompt_alt_tokens_k", asked.prompt_alt_tokens_k),
        ("record_stability_info", asked.record_stability_info),
    ):
        if value:
            raise InvalidRequest(f"{field} is not served here; leave it out", param=field)


def _check_last_n(asked: _Asked, num_prompt: int) -> None:
    last_n = asked.prompt_logprobs_last_n
    if last_n is None:
        return
    if not asked.prompt_logprobs or last_n >= num_prompt:
        raise InvalidRequest(
            f"prompt_logprobs_last_n is {last_n}: it needs prompt_logprobs, and is at most {num_prompt - 1}, one less "
            "than the tokens of the prompt",
            param="prompt_logprobs_last_n",
        )


def _targets(sent: _Tensor, num_rows: int) -> TargetMatrix:
    shape = sent.shape or []
    if sent.dtype != "int64" or len(shape) != 2 or shape[0] != num_rows or shape[1] < 1:
        raise InvalidRequest(
            f"target_prompt_logprobs must be int64 of shape [{num_rows}, K], one row for each token of the prompt "
            "after the first",
            param="target_prompt_logprobs",
        )
    try:
        values = np.array(sent.data, np.int32)
        pointers, columns = sent.sparse_crow_indices, sent.sparse_col_indices
        if pointers is None or columns is None:
            fits = pointers is columns is None and len(values) == shape[0] * shape[1]
            layout: tuple[Any, Any] = (None, None)
        else:
            layout = np.array(pointers, np.int32), np.array(columns, np.int32)
            fits = _is_csr(layout[0], layout[1], len(values), (shape[0], shape[1]))
    except OverflowError:
        raise InvalidRequest("target_prompt_logprobs has ids out of the vocabulary") from None
    if not fits or (len(values) and values.min() < -1):
        raise InvalidRequest("target_prompt_logprobs: data and indices do not make a matrix of token ids and -1")
    return TargetMatrix(values, (shape[0], shape[1]), *layout)


def _is_csr(pointers: Any, columns: Any, num_values: int, shape: tuple[int, int]) -> bool:
    return (
        len(pointers) == shape[0] + 1
        and len(columns) == num_values
        and pointers[0] == 0
        and pointers[-1] == num_values
        and bool(((pointers >= 0) & (pointers <= num_values)).all())
        and bool((np.diff(pointers) >= 0).all())
        and bool(((columns >= 0) & (columns < shape[1])).all())
    )
