"""What `headway export` writes into a file of this name. `headway import` reads a file by its name's end as well, so an
end that says something else than the content is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ExportFile:
    """format, pictures and gzip: as `GET /v2/traces/export` takes them."""

    format: str
    pictures: str | None
    gzip: bool

    @property
    def is_lines(self) -> bool:
        """Whether each rollout is a line of it, once it is unpacked."""
        return self.format != "parquet" and self.pictures != "files"


def export_file(out: Path, format_: str | None, pictures: str | None) -> ExportFile:
    """The file that the options ask for, and, where they leave it open, the name's end: .parquet is Parquet, .tar one
    with pictures, all else JSON lines, compressed with .gz.

    Raises ValueError for options that contradict each other or the name's end.
    """
    gzip = out.suffix.lower() == ".gz"
    end = (out.with_suffix("") if gzip else out).suffix.lower()
    if end == ".parquet":
        format_ = format_ or "parquet"
    if end == ".tar":
        pictures = pictures or "files"
    file = ExportFile(format_ or "headway", pictures, gzip)
    if (found := _contradiction(file, end)) is not None:
        raise ValueError(f"{out.name}: {found}")
    return file


def _contradiction(file: ExportFile, end: str) -> str | None:
    if (end == ".parquet") != (file.format == "parquet") and end in {".parquet", ".jsonl", ".tar"}:
        return f"--format {file.format} is no {end} file; give it another name, or leave out --format"
    if file.gzip and file.format == "parquet":
        return "Parquet files are compressed already; leave out .gz"
    if end == ".tar" and file.pictures != "files":
        return "a tar is for pictures beside the lines; name the file .jsonl, or leave out --pictures"
    if end == ".jsonl" and file.pictures == "files":
        return "pictures beside the lines are a tar; name the file .tar or .tar.gz, or say --pictures none"
    return None
