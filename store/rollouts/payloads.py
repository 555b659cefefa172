"""Whole spans as compressed JSON, without the token arrays that the sample's row holds anyway.

An agent's span says the same tokens up to three times: in `sample`, in `raw` as ids, and in `raw` again as logprob
objects. What equals the sample exactly is replaced by a mark, and put back when the span is read: nothing is lost.

Pictures in base64, which a rollout of screenshots says again in each turn, are blobs: a mark names the bytes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from store.rollouts.contents import MARK as _CONTENT
from store.rollouts.contents import put_back, taken_out
from wire.prompt_chunks import to_chunks
from wire.trajectories import Turn

_WHOLE, _SHORTENED, _WITHOUT_CONTENTS, _SHORTENED_WITHOUT_CONTENTS = b"\x01", b"\x02", b"\x03", b"\x04"
_MARK = "hw:same-as-sample"
"""The only key of an object that stands for an array of the sample. Spans that use it themselves are stored as is."""

_PROMPT, _OUTPUT, _LOGPROBS, _TOKENS, _CHUNKS = "prompt", "output", "logprobs", "tokens", "chunks"
_SAMPLE_FIELDS = {
    "prompt_token_ids": _PROMPT,
    "prompt_chunks": _CHUNKS,
    "output_token_ids": _OUTPUT,
    "output_logprobs": _LOGPROBS,
}
_CHOICE_FIELDS = {"prompt_token_ids": _PROMPT, "prompt_chunks": _CHUNKS, "token_ids": _OUTPUT}

Arrays = dict[str, list[Any]]


def pack_payload(span: Any, text: str, turn: Turn | None) -> tuple[bytes, dict[str, bytes]]:
    """A span for its row, and the contents that are to be blobs beside it, by name. `text`: the same as JSON; `turn`:
    the sample that is stored beside it."""
    if _MARK in text or _CONTENT in text:
        return _packed(_WHOLE, text), {}
    span, contents = taken_out(span) if "image/" in text else (span, {})
    if turn is not None:
        span = _replaced(span, _shorten_with(_arrays(turn)))
    if turn is None and not contents:
        return _packed(_WHOLE, text), {}
    return _packed(_FORMS[turn is not None, bool(contents)], json.dumps(span, separators=(",", ":"))), contents


def repack_without_turn(data: bytes, turn: Turn) -> bytes:
    """The same payload for a row whose sample is not stored beside it."""
    form, span = data[:1], json.loads(zlib.decompress(data[1:]))
    if form not in (_SHORTENED, _SHORTENED_WITHOUT_CONTENTS):
        return data
    text = json.dumps(_replaced(span, _restore_with(_arrays(turn))), separators=(",", ":"))
    return _packed(_WHOLE if form == _SHORTENED else _WITHOUT_CONTENTS, text)


def unpack_payload(
    data: bytes, turn: Turn | None, *, arrays: bool = True, read: Callable[[str], bytes] | None = None
) -> Any:
    """The span as it was sent, given the sample that is stored beside it, and how to `read` the blobs that are. Without
    `read` the marks of these stay in their places, without `arrays` all marks. Raises ValueError for another version,
    and whatever `read` raises."""
    form, span = data[:1], json.loads(zlib.decompress(data[1:]))
    if form not in _FORMS.values():
        raise ValueError("a span of an unknown version")
    if not arrays:
        return span
    if form in (_SHORTENED, _SHORTENED_WITHOUT_CONTENTS):
        if turn is None:
            raise ValueError("a span without its sample")
        span = _replaced(span, _restore_with(_arrays(turn)))
    if read is not None and form in (_WITHOUT_CONTENTS, _SHORTENED_WITHOUT_CONTENTS):
        span = put_back(span, read)
    return span


_FORMS = {
    (False, False): _WHOLE,
    (True, False): _SHORTENED,
    (False, True): _WITHOUT_CONTENTS,
    (True, True): _SHORTENED_WITHOUT_CONTENTS,
}
"""By whether its sample is stored beside it, and whether contents are."""


def _packed(form: bytes, text: str) -> bytes:
    return form + zlib.compress(text.encode(), 6)


def _arrays(turn: Turn) -> Arrays:
    return {
        _PROMPT: turn.prompt_ids.tolist(),
        _OUTPUT: turn.output_ids.tolist(),
        _LOGPROBS: turn.sampling_logprobs.tolist(),
        _CHUNKS: to_chunks(turn.prompt) if turn.media else [],
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
        is_same = json.dumps(old) == json.dumps(arrays[what]) if what == _CHUNKS else _is_same(old, arrays[what])
        return {_MARK: what} if is_same else old

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
