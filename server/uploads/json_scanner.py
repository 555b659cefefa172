"""Cutting lists of numbers out of JSON text while it streams in: training batches are hundreds of megabytes of JSON,
nearly all of it such lists.

Every list of numbers becomes a numpy array, leaving a placeholder. What remains is small and is parsed as ordinary
JSON by models whose fields are those of `server.uploads.json_fields`. Long texts of base64, which are pictures, are cut
out too, equal ones once: each turn of a rollout repeats those of the turns before.

Memory follows the limits, not the text: four bytes for each number (eight for an integer beyond 32 bits), at most
`max_tokens` integers and as many other numbers, at most `max_blob_bytes` of what base64 stands for, and a small
multiple of `_REST_BYTES` for what remains and for the string or list that is being read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from wire.errors import InvalidRequest, TooLarge

_SLICE_BYTES = 1 << 18
_REST_BYTES = 64 << 20
_NONCE = secrets.token_hex(16)  # of this process, so that no text from outside can pose as a placeholder

# A string, or a list of numbers (NaN and Infinity too, so that they can be refused by name); either may be cut off
# by the end of the buffer. Possessive quantifiers: no backtracking over megabytes.
_TOKEN = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|(?P<open_string>\\?\Z))'
    rb"|\[\s*+(?:[-0-9NI][-+0-9.eENaInfity,\s]*+(?:(?P<array>\])|(?P<open_array>\Z))|(?P<open_bracket>\Z))",
    re.DOTALL,
)
_BLOB_BYTES = 1 << 12
"""A shorter text stays where it is."""
_BASE64 = re.compile(rb'"[A-Za-z0-9+/]++={0,2}"')
_IS_FLOAT = re.compile(rb"[.eENI]")


class JsonScanner:
    """Cuts lists of numbers out of JSON text that comes in pieces. Lists within strings stay where they are."""

    def __init__(self, max_tokens: int, max_blob_bytes: int = 0) -> None:
        """`max_blob_bytes`: of what base64 stands for; 0: it stays where it is."""
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.num_tokens = 0
        """Integers seen in lists, which is what token ids are."""
        self.num_floats = 0
        """Other numbers seen in lists: logprobs, or the weights of a backward."""
        self._max_tokens = max_tokens
        self._max_blob_bytes = max_blob_bytes
        self._num_blob_bytes = 0
        self._rest = bytearray()
        self._pending = bytearray()
        self._scan_at = 0

    def feed(self, piece: bytes) -> None:
        """Take the next piece. Raises TooLarge, or InvalidRequest for a list that is not JSON."""
        self._pending += piece
        if len(self._pending) >= self._scan_at:
            self._scan(bytes(self._pending))
            self._scan_at = 2 * len(self._pending)  # a list longer than the buffer is not scanned again and again

    def finish(self) -> bytes:
        """The JSON text with placeholders, complete."""
        self._scan(bytes(self._pending))
        self._rest += self._pending
        return bytes(self._rest)

    def _scan(self, text: bytes) -> None:
        done = 0
        for match in _TOKEN.finditer(text):
            if match.lastgroup == "array":
                self._rest += text[done : match.start()]
                self._rest += self._cut(text[match.start() : match.end()])
                done = match.end()
            elif match.lastgroup is not None:
                self._keep(text, done, match.start())
                return
            elif (blob := self._blob(text, match.start(), match.end())) is not None:
                self._rest += text[done : match.start()]
                self._rest += blob
                done = match.end()
        self._keep(text, done, len(text))

    def _keep(self, text: bytes, done: int, end: int) -> None:
        """Settle everything before `end`; what comes after it waits for more."""
        self._rest += text[done:end]
        self._pending = bytearray(text[end:])
        is_list = self._pending.startswith(b"[")
        if is_list:
            self._count(self._pending.count(b","), is_float=_IS_FLOAT.search(self._pending) is not None)
        if is_list and len(self._pending) > _REST_BYTES:
            raise TooLarge(f"the batch holds a list of numbers that is longer than {_REST_BYTES} bytes")
        if len(self._rest) + (0 if is_list else len(self._pending)) > _REST_BYTES:
            raise TooLarge(f"the batch holds more than {_REST_BYTES} bytes besides its lists of numbers")

    def _cut(self, text: bytes) -> bytes:
        is_float = _IS_FLOAT.search(text) is not None
        self._count(text.count(b",") + 1, is_float=is_float)  # before it is made
        array = _parse_numbers(text, is_float)
        if array.dtype.kind == "i":
            self.num_tokens += len(array)
        else:
            self.num_floats += len(array)
        name = f"{_NONCE}:{len(self.arrays)}"
        self.arrays[name] = array
        return b'"' + name.encode() + b'"'

    def _blob(self, text: bytes, start: int, end: int) -> bytes | None:
        """What stands in the place of a long string of base64; None for any other. Raises TooLarge."""
        if not self._max_blob_bytes or end - start <= _BLOB_BYTES or not _BASE64.fullmatch(text, start, end):
            return None
        text = text[start:end]
        name = f"{_NONCE}:{hashlib.sha256(text).hexdigest()}"
        if name not in self.blobs:
            try:
                blob = self.blobs[name] = base64.b64decode(text[1:-1], validate=True)
            except binascii.Error:
                return None
            self._num_blob_bytes += len(blob)
            if self._num_blob_bytes > self._max_blob_bytes:
                raise TooLarge(
                    f"the batch holds more than {self._max_blob_bytes:,} bytes of pictures; name those that the server "
                    "has (image_asset_pointer), or send it in smaller batches (gradients accumulate over calls)"
                )
        return b'"' + name.encode() + b'"'

    def _count(self, num_more: int, *, is_float: bool) -> None:
        seen, what = (self.num_floats, "logprobs or weights") if is_float else (self.num_tokens, "tokens")
        if seen + num_more > self._max_tokens:
            raise TooLarge(
                f"the batch holds more than {self._max_tokens} {what}, the most this server takes at once; "
                "send it in smaller batches (gradients accumulate over calls)"
            )


def _parse_numbers(text: bytes, is_float: bool) -> npt.NDArray[Any]:
    """A JSON list of numbers as int32, as int64 where they do not fit, or as float32."""
    return np.concatenate([_parse_slice(piece, is_float) for piece in _slices(text)])


def _slices(text: bytes) -> list[bytes]:
    """The list in lists of bounded size, so that only so many numbers are Python objects at a time."""
    if len(text) <= _SLICE_BYTES:
        return [text]
    slices, start = [], 1
    while (end := text.find(b",", start + _SLICE_BYTES)) != -1:
        slices.append(b"[" + text[start:end] + b"]")
        start = end + 1
    return [*slices, b"[" + text[start:]]


def _parse_slice(text: bytes, is_float: bool) -> npt.NDArray[Any]:
    try:
        numbers = from_json(text)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: a list of numbers is malformed ({_reason(error)})") from None
    if not numbers:
        raise InvalidRequest("the body is not valid JSON: a list of numbers has a stray comma")
    if is_float:
        return _float32([_as_float(n) for n in numbers] if _has_huge(text) else numbers)
    try:
        array = np.array(numbers, np.int64)
    except OverflowError:
        return _float32([_as_float(n) for n in numbers])
    fits = array.min() >= -(2**31) and array.max() < 2**31
    return array.astype(np.int32) if fits else array


def _float32(numbers: list[float]) -> npt.NDArray[np.float32]:
    """Infinite where a float32 cannot hold the number, which is refused later, by name."""
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float64).astype(np.float32)


def _has_huge(text: bytes) -> bool:
    """Whether a number of more digits than a float has may be among them."""
    return re.search(rb"[0-9]{300}", text) is not None


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf")


def _reason(error: ValueError) -> str:
    return str(error).partition(" at line")[0]
