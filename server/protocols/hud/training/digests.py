"""Whether two requests are the same. They are compared as they were sent, once parsed: white space, the order of keys
and the spelling of numbers and ids make no difference, and neither does whether a picture came inline or by its name.
What trace ids are resolved to is left out, for that changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from server.catalog.repository import as_uuid
from wire.prompt_chunks import PointerChunk, TextChunk, merged


def request_digest(kind: str, request: BaseModel) -> bytes:
    """SHA-256 of a parsed request. What is as its default is left out, so that a field that comes later changes no
    digest that is in a log."""
    digest = hashlib.sha256()
    arrays = list[np.ndarray[Any, Any]]()
    shape = json.dumps([kind, _plain(request, arrays)], sort_keys=True, separators=(",", ":"))
    digest.update(shape.encode("utf-8", "surrogatepass"))
    for array in arrays:
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.digest()


def _plain(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """As JSON, with arrays, which are set aside, by their types and lengths."""
    match value:
        case TextChunk():
            return ["text", _plain(value.ids, arrays)]
        case PointerChunk():
            return ["picture", value.name]
        case [TextChunk() | PointerChunk(), *_]:
            return [_plain(chunk, arrays) for chunk in merged(value)]
        case np.ndarray():
            arrays.append(value)
            return [str(value.dtype), len(value)]
        case BaseModel():
            return {name: _plain(inner, arrays) for name, inner in _sent(value)}
        case list():
            return [_plain(item, arrays) for item in value]
        case dict():
            return {key: _plain(value[key], arrays) for key in sorted(value)}
        case str() if (named := as_uuid(value)) is not None:
            return named.hex
        case _:
            return value


def _sent(request: BaseModel) -> Iterator[tuple[str, Any]]:
    for name, field in type(request).model_fields.items():
        value = getattr(request, name)
        if not _is_default(value, field):
            yield name, value


def _is_default(value: Any, field: FieldInfo) -> bool:
    if isinstance(value, np.ndarray):
        return not len(value) and not field.is_required()
    return not field.is_required() and value == field.get_default(call_default_factory=True)
