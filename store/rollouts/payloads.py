"""Whole spans as compressed JSON, without the token arrays that the sample's row holds anyway.

An agent's span says the same tokens up to three times: in `sample`, in `raw` as ids, and in `raw` again as logprob
objects. What equals the sample exactly is replaced by a mark, and put back when the span is read: nothing is lost.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from wire.trajectories import Turn

_WHOLE, _SHORTENED = b"\x01", b"\x02"
_MARK = "hw:same-as-sample"
"""The only key of an object that stands for an array of the sample. Spans that use it themselves are stored as is."""

_PROMPT, _OUTPUT, _LOGPROBS, _TOKENS = "prompt", "output", "logprobs", "tokens"
_SAMPLE_FIELDS = {"prompt_token_ids": _PROMPT, "output_token_ids": _OUTPUT, "output_logprobs": _LOGPROBS}
_CHOICE_FIELDS = {"prompt_token_ids": _PROMPT, "token_ids": _OUTPUT}

Arrays = dict[str, list[Any]]


def pack_payload(span: Any, text: str, turn: Turn | None) -> bytes:
    """A span for its row. `text`: the same as JSON; `turn`: the sample that is stored beside it."""
    if turn is None or _MARK in text:
        return _WHOLE + zlib.compress(text.encode(), 6)
    text = json.dumps(_replaced(span, _shorten_with(_arrays(turn))), separators=(",", ":"))
    return _SHORTENED + zlib.compress(text.encode(), 6)


def unpack_payload(data: bytes, turn: Turn | None, *, arrays: bool = True) -> Any:
    """The span as it was sent, given the sample that is stored beside it; without `arrays`, marks stay in their places.
    Raises ValueError for another version."""
    form, span = data[:1], json.loads(zlib.decompress(data[1:]))
    if form == _WHOLE or (form == _SHORTENED and not arrays):
        return span
    if form != _SHORTENED or turn is None:
        raise ValueError("a span of an unknown version, or without its sample")
    return _replaced(span, _restore_with(_arrays(turn)))


def _arrays(turn: Turn) -> Arrays:
    return {
        _PROMPT: turn.prompt_ids.tolist(),
        _OUTPUT: turn.output_ids.tolist(),
        _LOGPROBS: turn.sampling_logprobs.tolist(),
    }


Change = Callable[[Any, str], Any]
"""What stands in the place of a value, given what it says."""


def _replaced(span: Any, change: Change) -> Any:
    """The span with every place where tokens are repeated changed. Nothing that was passed in is altered."""
    payload = _get(span, "attributes", "hud.payload")
    payload = _with(payload, "sample", lambda sample: _changed_fields(sample, _SAMPLE_FIELDS, change))
    payload = _with(payload, "raw", lambda raw: _changed_raw(raw, change))
    return _with(span, "attributes", lambda attributes: _with(attributes, "hud.payload", lambda _: payload))


def _changed_raw(raw: Any, change: Change) -> Any:
    raw = _changed_fields(raw, {"prompt_token_ids": _PROMPT}, change)
    choices = _get(raw, "choices")
    if not isinstance(choices, list) or len(choices) != 1:
        return raw
    choice = _changed_fields(choices[0], _CHOICE_FIELDS, change)
    choice = _with(choice, "logprobs", lambda logprobs: _changed_fields(logprobs, {"content": _TOKENS}, change))
    return {**raw, "choices": [choice]}


def _changed_fields(value: Any, fields: dict[str, str], change: Change) -> Any:
    for name, what in fields.items():
        value = _with(value, name, lambda old, what=what: change(old, what))
    return value


def _with(value: Any, name: str, change: Callable[[Any], Any]) -> Any:
    if not isinstance(value, dict) or name not in value:
        return value
    return {**value, name: change(value[name])}


def _get(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _shorten_with(arrays: Arrays) -> Change:
    def shorten(old: Any, what: str) -> Any:
        if what == _TOKENS:
            texts = _entry_texts(old, arrays[_LOGPROBS])
            return old if texts is None else {_MARK: texts}
        return {_MARK: what} if _is_same(old, arrays[what]) else old

    return shorten


def _restore_with(arrays: Arrays) -> Change:
    def restore(old: Any, what: str) -> Any:
        if not isinstance(old, dict) or set(old) != {_MARK}:
            return old
        if what != _TOKENS:
            return arrays[what]
        return [_entry(*known) for known in zip(old[_MARK], arrays[_LOGPROBS], strict=True)]

    return restore


def _entry_texts(entries: Any, logprobs: Sequence[float]) -> list[Any] | None:
    """What is needed besides the logprobs to rebuild the entries; None when something else is said there."""
    if not isinstance(entries, list) or len(entries) != len(logprobs):
        return None
    if not all(_is_entry(entry, logprob) for entry, logprob in zip(entries, logprobs, strict=True)):
        return None
    logprobs_said = [entry["logprob"] for entry in entries]
    return [entry["token"] for entry in entries] if _is_same(logprobs_said, logprobs) else None


def _is_entry(entry: Any, logprob: float) -> bool:
    """Whether `_entry` would write it so, but for the type and the sign of its logprob."""
    text = _get(entry, "token")
    if not isinstance(text, str):
        return False
    said = entry.get("bytes")
    return entry == _entry(text, logprob) and set(map(type, said)) <= {int}


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {
        "token": text,
        "bytes": list(text.encode("utf-8", "surrogatepass")),
        "logprob": logprob,
        "top_logprobs": [],
    }


def _is_same(old: Any, array: Sequence[Any]) -> bool:
    """Equal numbers, and written the same way: 1 is neither 1.0 nor True, and -0.0 is not 0.0."""
    if not isinstance(old, list) or old != array or (types := list(map(type, old))) != list(map(type, array)):
        return False
    return float not in types or 0 not in array or repr(old) == repr(array)
