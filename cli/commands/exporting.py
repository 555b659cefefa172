"""`headway export`: recorded rollouts as a file."""

from __future__ import annotations

import zlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.ending import or_stop
from cli.export_files import ExportFile, export_file
from cli.matching import only_match
from cli.service.client import Key, Url, checked, pages, service_client
from cli.settings import DEFAULT_DATA_DIR, DataDir, stop_with
from wire.ids import as_uuid

if TYPE_CHECKING:
    import httpx


def export(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="The file to write: .jsonl, .parquet, or .tar with pictures; a name that ends in .gz is compressed",
        ),
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="headway, trl, verl, openrlhf, openai-rft or parquet. Default: parquet for a file that is named so, "
            "headway for others",
        ),
    ] = None,
    job: Annotated[str | None, typer.Option(help="Of this job: its id or first characters, or its name")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model of the key's team: its name or id")] = None,
    group: Annotated[str | None, typer.Option(help="Of this group (id)")] = None,
    task: Annotated[str | None, typer.Option(help="Of this task (slug)")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Sampled from this checkpoint (id)")] = None,
    status: Annotated[str | None, typer.Option(help="running, completed, error or cancelled")] = None,
    min_reward: Annotated[float | None, typer.Option(help="With at least this reward")] = None,
    max_reward: Annotated[float | None, typer.Option(help="With at most this reward")] = None,
    since: Annotated[str | None, typer.Option(help="Begun then or later (ISO time)")] = None,
    until: Annotated[str | None, typer.Option(help="Begun before then (ISO time)")] = None,
    has_samples: Annotated[bool | None, typer.Option(help="With tokens on record, or without")] = None,
    pictures: Annotated[
        str | None,
        typer.Option(help="files: a tar with the pictures beside the lines (headway alone); none: without them"),
    ] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write recorded rollouts to a file. It is written as FILE.part and renamed when it is complete."""
    kind = or_stop(lambda: export_file(out, format_, pictures))
    asked: dict[str, Any] = {
        **asdict(kind),
        "group_id": group,
        "task_slug": task,
        "checkpoint_id": checkpoint,
        "status": status,
        "min_reward": min_reward,
        "max_reward": max_reward,
        "since": since,
        "until": until,
        "has_samples": has_samples,
    }
    part = out.with_name(out.name + ".part")
    try:
        with service_client(url, key, data_dir) as http, part.open("wb") as file:
            asked |= {"job_id": _job_id(http, job), "model_id": _model_id(http, model)}
            total, written = _download(http, {field: it for field, it in asked.items() if it is not None}, kind, file)
        part.replace(out)
    except OSError as error:
        stop_with(f"{out}: {error.strerror or error}")
    finally:
        part.unlink(missing_ok=True)
    typer.echo(f"{written} of {total} rollouts in {out}")
    if written < total:
        typer.echo(
            f"{total - written} left out: without text on record, which {kind.format} needs, or deleted meanwhile"
        )


def _model_id(http: httpx.Client, model: str | None) -> str | None:
    if model is None or as_uuid(model):
        return model
    return checked(http.get("/v2/models/resolve", params={"model": model})).json()["id"]


def _job_id(http: httpx.Client, job: str | None) -> str | None:
    if job is None or as_uuid(job):
        return job
    jobs = ((known["id"], known["name"]) for known in pages(http, "/v2/jobs"))
    return or_stop(lambda: only_match(jobs, job, kind="job", see="GET /v2/jobs"))


def _download(http: httpx.Client, query: dict[str, Any], kind: ExportFile, file: BinaryIO) -> tuple[int, int]:
    """How many rollouts fit the filters, and how many are in the file."""
    with http.stream("GET", "/v2/traces/export", params=query) as reply, _progress() as progress:
        total = int(checked(reply).headers.get("X-Total-Count", 0))
        counter = _Counter(gzipped=kind.gzip) if kind.is_lines else None
        task = progress.add_task("exporting", total=total)
        for piece in reply.iter_raw():
            file.write(piece)
            if counter is not None:
                progress.update(task, completed=counter.count(piece))
    return total, counter.num_lines if counter is not None else total


class _Counter:
    """Rollouts so far, by the ends of their lines."""

    def __init__(self, *, gzipped: bool) -> None:
        self.num_lines = 0
        self._unpack = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress if gzipped else bytes

    def count(self, piece: bytes) -> int:
        self.num_lines += self._unpack(piece).count(b"\n")
        return self.num_lines


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
