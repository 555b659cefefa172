"""Prompts as chunks, as training calls, telemetry and Tinker have them where there are pictures: `encoded_text` with
tokens, `image` with the bytes in base64, and `image_asset_pointer` with `sha256:<name>`.

A picture's chunk stands for its placeholders alone; what the template writes around them is text. `expected_tokens`
says how many there were when the prompt was sampled from: a base that makes another number of them is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wire.errors import InvalidRequest
from wire.extension import Int32Array, Media, TokenSequence, joined
from wire.picture_rule import PictureRule
from wire.pictures import Picture, location_of, name_in

TEXT, IMAGE, POINTER = "encoded_text", "image", "image_asset_pointer"
_FIELDS = {
    TEXT: {"type", "tokens"},
    IMAGE: {"type", "data", "format", "expected_tokens"},
    POINTER: {"type", "location", "format", "expected_tokens"},
}
_FORMATS = {IMAGE: ("png", "jpeg", "webp"), POINTER: ("png",)}
_MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class TextChunk:
    """int32 token ids."""

    ids: Int32Array


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """A picture's bytes as they were sent: in whatever format they are, and not decoded yet."""

    data: bytes
    expected_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class PointerChunk:
    """A picture that the server has, by name."""

    name: str
    expected_tokens: int | None = None


Chunk = TextChunk | ImageChunk | PointerChunk


def read_chunks(where: str, chunks: Sequence[Any]) -> list[Chunk]:
    """Chunks as they were sent: mappings, with tokens as a list or an int array, and data as base64 or bytes. Raises
    InvalidRequest with a sentence that begins with `where` and the number of the chunk."""
    return [_read(f"{where}: chunk {number}", chunk) for number, chunk in enumerate(chunks)]


def merged(chunks: Iterable[Chunk]) -> list[Chunk]:
    """The same prompt with texts as long as they can be, none of them empty."""
    found = list[Chunk]()
    for chunk in chunks:
        before = found[-1] if found else None
        if isinstance(chunk, TextChunk) and isinstance(before, TextChunk):
            found[-1] = TextChunk(np.concatenate([before.ids, chunk.ids]))
        elif not isinstance(chunk, TextChunk) or len(chunk.ids):
            found.append(chunk)
    return found


def num_pictures(chunks: Sequence[Chunk]) -> int:
    """How many of the chunks are pictures."""
    return sum(not isinstance(chunk, TextChunk) for chunk in chunks)


def to_sequence(
    where: str, chunks: Sequence[Chunk], pictures: Sequence[Picture], rule: PictureRule | None
) -> TokenSequence:
    """The sequence that the chunks stand for, given what picture each of `image` and `image_asset_pointer` is, in
    order. rule: None where none is a picture. Raises InvalidRequest where one has another number of tokens than its
    chunk expects."""
    rest = iter(pictures)
    parts = [
        TokenSequence(chunk.ids)
        if isinstance(chunk, TextChunk)
        else _run(f"{where}: chunk {number}", chunk, next(rest), rule)
        for number, chunk in enumerate(chunks)
    ]
    return joined(*parts) if parts else TokenSequence(np.zeros(0, np.int32))


def to_chunks(sequence: TokenSequence) -> list[dict[str, Any]]:
    """Text and pointers; texts are as long as they can be, and none is empty."""
    return list(_chunks(sequence))


def _chunks(sequence: TokenSequence) -> Iterator[dict[str, Any]]:
    stop = 0
    for item in sequence.media:
        if item.start > stop:
            yield _text(sequence.ids[stop : item.start])
        location = location_of(item.name)
        yield {"type": POINTER, "location": location, "format": "png", "expected_tokens": item.num_tokens}
        stop = item.stop
    if stop < len(sequence):
        yield _text(sequence.ids[stop:])


def _text(ids: Int32Array) -> dict[str, Any]:
    return {"type": TEXT, "tokens": ids.tolist()}


def _run(where: str, chunk: ImageChunk | PointerChunk, picture: Picture, rule: PictureRule | None) -> TokenSequence:
    assert rule is not None, "a base without a rule takes text alone"
    num_tokens = rule.num_tokens(picture.width, picture.height)
    if chunk.expected_tokens not in (None, num_tokens):
        raise InvalidRequest(
            f"{where} expects {chunk.expected_tokens} tokens of a picture of {picture.width}×{picture.height} pixels, "
            f"which has {num_tokens} here: it was sampled from another base, or the picture is another one"
        )
    ids = np.full(num_tokens, rule.placeholder_id, np.int32)
    return TokenSequence(ids, (Media(0, num_tokens, picture.digest, picture.width, picture.height),))


def _read(where: str, chunk: Any) -> Chunk:
    kind = chunk.get("type") if isinstance(chunk, Mapping) else None
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise InvalidRequest(f"{where} has the type {kind!r}: {', '.join(_FIELDS)} are read here")
    others = sorted(str(name) for name, value in chunk.items() if name not in _FIELDS[kind] and value is not None)
    if others:
        raise InvalidRequest(f"{where}: {others[0]} of an {kind} chunk is not supported")
    if kind == TEXT:
        return TextChunk(_ids(where, chunk.get("tokens")))
    if chunk.get("format") not in _FORMATS[kind]:
        raise InvalidRequest(f"{where} has the format {chunk.get('format')!r}: {', '.join(_FORMATS[kind])} are read")
    if kind == IMAGE:
        return ImageChunk(_data(where, chunk.get("data")), _expected(where, chunk))
    return PointerChunk(_name(where, chunk.get("location")), _expected(where, chunk))


def _ids(where: str, tokens: Any) -> Int32Array:
    if isinstance(tokens, list) and set(map(type, tokens)) <= {int}:
        found = np.array(tokens, np.int64) if all(0 <= token <= _MAX_ID for token in tokens) else None
    else:
        found = tokens if isinstance(tokens, np.ndarray) and np.issubdtype(tokens.dtype, np.integer) else None
    if found is None or found.ndim != 1 or (len(found) and not 0 <= found.min() <= found.max() <= _MAX_ID):
        raise InvalidRequest(f"{where}: tokens must be a list of token ids")
    return found.astype(np.int32, copy=False)


def _data(where: str, data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InvalidRequest(f"{where}: data is no base64") from error


def _name(where: str, location: Any) -> str:
    name = name_in(location) if isinstance(location, str) else None
    if name is None:
        raise InvalidRequest(f"{where}: location must be sha256:<64 hexadecimal digits>")
    return name


def _expected(where: str, chunk: Mapping[str, Any]) -> int | None:
    expected = chunk.get("expected_tokens")
    if expected is not None and (type(expected) is not int or expected < 1):
        raise InvalidRequest(f"{where}: expected_tokens must be a positive whole number")
    return expected
