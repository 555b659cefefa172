"""`headway import`: sends rollouts from a file in portions, their pictures before them, and prints the refusals of each
line."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from cli.service.client import Key, Url, checked, service_client
from cli.settings import DEFAULT_DATA_DIR, DataDir, stop_with

if TYPE_CHECKING:
    import httpx

_PORTION_BYTES = 8 << 20
_COUNTED: tuple[str, ...] = ("imported", "unchanged", "rescored", "num_refused")


def import_(
    file: Annotated[Path, typer.Argument(help="As `export` writes it: .jsonl or .tar, with .gz too, or .parquet")],
    job: Annotated[str | None, typer.Option(help="Put them under a job of this name")] = None,
    rescore: Annotated[
        bool,
        typer.Option("--rescore", help="Replace reward and status of recorded rollouts with the file's"),
    ] = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Record rollouts from a file. May be repeated: a rollout that is on record is not recorded twice."""
    query = {"rescore": rescore, **({"job": job} if job is not None else {})}
    totals: dict[str, int] = dict.fromkeys(_COUNTED, 0)
    begins_at, console = 1, Console(stderr=True)
    try:
        with service_client(url, key, data_dir) as http, _lines_of(file, http, console) as lines:
            for portion in _portions(lines):
                reply = http.post("/v2/traces/import", params=query, content=b"".join(portion))
                result: dict[str, Any] = checked(reply).json()
                _tell(console, result, begins_at)
                totals = {what: totals[what] + result[what] for what in _COUNTED}
                begins_at += len(portion)
    except ModuleNotFoundError:
        stop_with("reading Parquet needs pyarrow; install headway[export], or import JSON lines")
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        stop_with(f"{file}: {getattr(error, 'strerror', None) or error}; before that, {_said(totals)}")
    typer.echo(_said(totals))
    if totals["num_refused"]:
        raise typer.Exit(1)


def _tell(console: Console, result: dict[str, Any], begins_at: int) -> None:
    for refusal in result["refused"]:
        named = f" ({refusal['trace_id']})" if refusal["trace_id"] else ""
        console.print(
            f"line {begins_at + refusal['line'] - 1}{named}: {refusal['detail']}", markup=False, soft_wrap=True
        )
    if result["num_refused"] > len(result["refused"]):
        console.print(f"… and {result['num_refused'] - len(result['refused'])} more")


def _said(totals: dict[str, int]) -> str:
    return (
        f"{totals['imported']} imported, {totals['unchanged']} on record already, {totals['rescored']} scored anew, "
        f"{totals['num_refused']} refused"
    )


def _portions(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    """As many lines as are sent at once. A long line goes alone."""
    portion, size = list[bytes](), 0
    for line in lines:
        if portion and size + len(line) > _PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(line)
        size += len(line)
    if portion:
        yield portion


@contextmanager
def _lines_of(file: Path, http: httpx.Client, console: Console) -> Generator[Iterator[bytes]]:
    """The file's lines, each with its end, under a progress bar of the file's bytes. Pictures that come before a line
    are sent before it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        progress.open(file, "rb", description="importing", total=file.stat().st_size) as content,
    ):
        if file.suffix == ".parquet":
            yield _rows(content, http)
        elif ".tar" in file.suffixes:
            yield _members(content, http)
        else:
            yield _ended(gzip.GzipFile(fileobj=content) if file.suffix == ".gz" else content)


def _ended(lines: Any) -> Iterator[bytes]:
    return (line if line.endswith(b"\n") else line + b"\n" for line in lines)


def _rows(content: BinaryIO, http: httpx.Client) -> Iterator[bytes]:
    from pyarrow.parquet import ParquetFile

    sent = set[str]()
    for batch in ParquetFile(content).iter_batches(batch_size=16):
        for row in batch.to_pylist():
            for picture in row.pop("pictures", None) or ():
                if picture["bytes"] is not None and picture["name"] not in sent:
                    sent.add(picture["name"])
                    _send_picture(http, picture["name"], picture["bytes"])
            yield json.dumps(row).encode() + b"\n"


def _members(content: BinaryIO, http: httpx.Client) -> Iterator[bytes]:
    with tarfile.open(fileobj=content, mode="r|*") as members:
        for member in members:
            path = PurePosixPath(member.name)
            if (file := members.extractfile(member)) is None:
                continue
            if path.suffix == ".png":
                _send_picture(http, path.stem, file.read())
            elif path.suffix == ".jsonl":
                yield from _ended(file)


def _send_picture(http: httpx.Client, name: str, data: bytes) -> None:
    taken = checked(http.post("/v2/pictures", content=data)).json()
    if taken["name"] != name:
        raise ValueError(f"picture {name} is another one than its name says")
