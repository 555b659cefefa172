"""Export formats of recorded rollouts: a file each, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from server.rollouts.formats.headway import headway_row
from server.rollouts.formats.lines import Gzipped, JsonLines, Row, Writer
from server.rollouts.formats.openai_rft import openai_rft_row
from server.rollouts.formats.openrlhf import openrlhf_row
from server.rollouts.formats.parquet import ParquetRows
from server.rollouts.formats.tar import PicturedTar
from server.rollouts.formats.trl import trl_row
from server.rollouts.formats.verl import verl_row
from store.blob_stores import BlobStore
from store.rollouts import Resolved
from wire.errors import InvalidRequest

FormatName = Literal["headway", "trl", "verl", "openrlhf", "openai-rft", "parquet"]


@dataclass(frozen=True, slots=True)
class Format:
    """`row`: for JSON lines; None: Parquet. `takes_pictures`: has a place for them."""

    row: Row | None
    media_type: str = "application/x-ndjson"
    suffix: str = ".jsonl"
    takes_pictures: bool = False

    def file(self, blobs: BlobStore, *, with_pictures: bool, gzipped: bool = False) -> NewFile:
        """A new one. Raises InvalidRequest for what this server cannot write."""
        if self.row is None:
            if gzipped:
                raise InvalidRequest("Parquet files are compressed already; leave gzip out")
            return NewFile(ParquetRows(blobs if with_pictures else None), self.media_type, self.suffix)
        lines = JsonLines(self.row)
        made = NewFile(lines, self.media_type, self.suffix)
        if with_pictures:
            made = NewFile(PicturedTar(lines, blobs), "application/x-tar", ".tar")
        return NewFile(Gzipped(made.writer), "application/gzip", f"{made.suffix}.gz") if gzipped else made


@dataclass(frozen=True, slots=True)
class NewFile:
    """What writes it, and what it is. `suffix`: of its name."""

    writer: Writer
    media_type: str
    suffix: str


def _by_itself(row: Callable[[Resolved], dict[str, object] | None]) -> Row:
    return lambda resolved, _: row(resolved)


FORMATS: dict[FormatName, Format] = {
    "headway": Format(_by_itself(headway_row), takes_pictures=True),
    "trl": Format(_by_itself(trl_row)),
    "verl": Format(verl_row),
    "openrlhf": Format(_by_itself(openrlhf_row)),
    "openai-rft": Format(_by_itself(openai_rft_row)),
    "parquet": Format(None, "application/vnd.apache.parquet", ".parquet", takes_pictures=True),
}
