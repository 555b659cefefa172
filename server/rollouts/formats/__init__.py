"""Export formats of recorded rollouts: a file each, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from server.rollouts.formats.headway import headway_row
from server.rollouts.formats.lines import Gzipped, JsonLines, Row
from server.rollouts.formats.openai_rft import openai_rft_row
from server.rollouts.formats.openrlhf import openrlhf_row
from server.rollouts.formats.parquet import ParquetRows
from server.rollouts.formats.trl import trl_row
from server.rollouts.formats.verl import verl_row
from store.rollouts import Resolved
from wire.errors import InvalidRequest

FormatName = Literal["headway", "trl", "verl", "openrlhf", "openai-rft", "parquet"]


class Writer(Protocol):
    """Makes a file piece by piece. Blocks: not for the event loop."""

    def write(self, rollouts: Sequence[Resolved]) -> bytes: ...

    def close(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Format:
    """`row`: for JSON lines; None: Parquet."""

    row: Row | None
    media_type: str = "application/x-ndjson"
    suffix: str = ".jsonl"

    def writer(self, *, gzipped: bool = False) -> Writer:
        """Of a new file. Raises InvalidRequest for what this server cannot write."""
        if self.row is None:
            if gzipped:
                raise InvalidRequest("Parquet files are compressed already; leave gzip out")
            return ParquetRows()
        return Gzipped(JsonLines(self.row)) if gzipped else JsonLines(self.row)


def _by_itself(row: Callable[[Resolved], dict[str, object] | None]) -> Row:
    return lambda resolved, _: row(resolved)


FORMATS: dict[FormatName, Format] = {
    "headway": Format(_by_itself(headway_row)),
    "trl": Format(_by_itself(trl_row)),
    "verl": Format(verl_row),
    "openrlhf": Format(_by_itself(openrlhf_row)),
    "openai-rft": Format(_by_itself(openai_rft_row)),
    "parquet": Format(None, "application/vnd.apache.parquet", ".parquet"),
}
