"""`multipart/form-data` with one file, worked off as it comes in: the file is never in memory as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from wire.errors import InvalidRequest, TooLarge

_MOST_FIELD_BYTES = 16 * 1024
_MOST_HEADER_BYTES = 16 * 1024
_MOST_PARTS = 32

Sink = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class Form:
    """What came beside the file's content. `filename` None: there was no file."""

    fields: dict[str, str] = field(default_factory=dict[str, str])
    filename: str | None = None


async def read_form(request: Request, chunks: AsyncIterator[bytes], file_field: str, sink: Sink) -> Form:
    """The fields; the content of the file goes to `sink`. Raises InvalidRequest for a body that is no such form."""
    parts = _Parts(file_field)
    parser = parts.parser_of(request.headers.get("content-type", ""))
    try:
        async for chunk in chunks:
            parser.write(chunk)
            for data in parts.taken():
                await sink(data)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the body is no valid multipart form: {error}") from None
    for data in parts.taken():
        await sink(data)
    parts.refuse_unfinished()
    return parts.form


class _Parts:
    """The parser's callbacks: the headers of a part say where its content goes."""

    def __init__(self, file_field: str) -> None:
        self.form = Form()
        self._file_field = file_field
        self._file = list[bytes]()
        self._name = self._value = self._header = b""
        self._headers = dict[str, bytes]()
        self._is_file = self._is_whole = False
        self._num_parts = 0

    def parser_of(self, content_type: str) -> MultipartParser:
        """Raises InvalidRequest where the body is said to be something else."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not (boundary := options.get(b"boundary")):
            raise InvalidRequest("send the file as multipart/form-data, with the fields purpose and file")
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._all,
            },
        )

    def taken(self) -> list[bytes]:
        """What came of the file since the last time."""
        taken, self._file = self._file, []
        return taken

    def refuse_unfinished(self) -> None:
        """Raises InvalidRequest for a form that was cut off, or has no file."""
        if not self._is_whole:
            raise InvalidRequest("the body ended before the form did; send it again")
        if self.form.filename is None:
            raise InvalidRequest(f"the form has no file: send it as the field {self._file_field!r}", param="file")

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MOST_PARTS:
            raise InvalidRequest(f"the form has more than {_MOST_PARTS} parts")
        self._headers, self._name, self._value, self._header, self._is_file = {}, b"", b"", b"", False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name = _bounded(self._name + data[start:end], _MOST_HEADER_BYTES)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = _bounded(self._header + data[start:end], _MOST_HEADER_BYTES)

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._header
        self._name = self._header = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._name = options.get(b"name", b"")
        self._is_file = self._name == self._file_field.encode()
        if not self._is_file:
            return
        if self.form.filename is not None:
            raise InvalidRequest("the form has two files; send one at a time", param="file")
        self.form.filename = options.get(b"filename", b"").decode("utf-8", "replace") or "file"

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._file.append(data[start:end])
        else:
            self._value = _bounded(self._value + data[start:end], _MOST_FIELD_BYTES)

    def _end(self) -> None:
        if not self._is_file:
            self.form.fields[self._name.decode("utf-8", "replace")] = self._value.decode("utf-8", "replace")

    def _all(self) -> None:
        self._is_whole = True


def _bounded(data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise TooLarge(f"a field of the form is longer than {most} bytes")
    return data
