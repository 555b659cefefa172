"""A file as it comes in: each piece goes to the disk, and each line is checked, before the next is read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from server.files.lines import FileKind, kind_of
from server.process.settings import Limits
from server.uploads.upload_parser import UploadParser
from store.blob_stores import BlobDraft
from wire.errors import HeadwayError, InvalidRequest, TooLarge

_PIECE_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What came in, all of it right."""

    num_bytes: int
    num_lines: int
    kind: FileKind


class IncomingFile:
    """Of one upload. Holds a piece and the beginning of a line in memory."""

    def __init__(self, draft: BlobDraft, parser: UploadParser, limits: Limits) -> None:
        self._draft, self._parser, self._limits = draft, parser, limits
        self._piece, self._line = bytearray(), bytearray()
        self._num_bytes = self._num_lines = 0
        self._kind: FileKind | None = None

    async def write(self, data: bytes) -> None:
        """The next bytes. Raises InvalidRequest for a line that is wrong, naming it, TooLarge for a file that is."""
        self._num_bytes += len(data)
        if self._num_bytes > self._limits.file_bytes:
            raise TooLarge(f"the file is larger than {self._limits.file_bytes} bytes, the most this server takes")
        self._piece += data
        if len(self._piece) >= _PIECE_BYTES:
            await self._take()

    async def finish(self) -> CheckedFile:
        """No more bytes come. Raises as `write`, and InvalidRequest for a file without a line."""
        await self._take()
        await self._check([bytes(self._line)])
        if self._kind is None:
            raise InvalidRequest("the file is empty: it needs at least one line of JSON", param="file")
        return CheckedFile(self._num_bytes, self._num_lines, self._kind)

    async def _take(self) -> None:
        piece = bytes(self._piece)
        self._piece.clear()
        await asyncio.to_thread(self._draft.write, piece)
        *ended, rest = piece.split(b"\n")
        if ended:
            ended[0] = bytes(self._line) + ended[0]
            self._line.clear()
            await self._check(ended)
        self._line += rest
        if len(self._line) > self._limits.body_bytes:
            raise _too_long(self._num_lines + 1, self._limits.body_bytes)

    async def _check(self, lines: Sequence[bytes]) -> None:
        """Lines of few bytes together, in the process that parses uploads; trajectories may take much."""
        block = b"\n".join(lines)
        if block.strip():
            tokens = self._limits.batch_tokens
            self._kind = await self._parser.read(block, check_lines, self._num_lines + 1, self._kind, tokens)
        self._num_lines += len(lines) if lines != [b""] else 0


def check_lines(block: bytes, first: int, kind: FileKind | None, max_tokens: int) -> FileKind | None:
    """The kind of the lines, which is that of the lines before them (None: there were none). Raises InvalidRequest for
    the first that is wrong, by its number."""
    for number, line in enumerate(block.split(b"\n"), first):
        if not line.strip():
            continue
        try:
            found = kind_of(line, max_tokens)
        except HeadwayError as error:
            raise InvalidRequest(f"line {number}: {error.message}") from None
        if kind not in (None, found):
            raise InvalidRequest(f"line {number} is of the kind {found}, the lines before it of the kind {kind}")
        kind = found
    return kind


def _too_long(number: int, most: int) -> InvalidRequest:
    return InvalidRequest(f"line {number} is longer than {most} bytes; is the file lines of JSON?", param="file")
