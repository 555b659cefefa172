"""What every command takes from flags or the environment, and how a command ends when it cannot go on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import quote

import typer

if TYPE_CHECKING:
    from store.blob_stores import BlobStore
    from store.checkpoint_stores import CheckpointStore

DEFAULT_DATA_DIR = Path(".headway")


def _readable_url(url: str | None) -> str | None:
    from store.database import normalise_url

    try:
        if url:
            normalise_url(url)
    except ValueError as error:
        stop_with(str(error))
    return url


DatabaseUrl = Annotated[
    str,
    typer.Option(
        envvar="HEADWAY_DATABASE_URL",
        help="PostgreSQL URL",
        show_default=False,
        show_envvar=True,
        callback=_readable_url,
    ),
]
OptionalDatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="HEADWAY_DATABASE_URL",
        help="PostgreSQL URL; default: the one embedded in the data folder",
        show_default=False,
        show_envvar=True,
        callback=_readable_url,
    ),
]
DataDir = Annotated[
    Path, typer.Option(envvar="HEADWAY_DATA_DIR", help="Folder for blobs, checkpoints and logs", show_envvar=True)
]
CheckpointStoreUrl = Annotated[
    str | None,
    typer.Option(
        envvar="HEADWAY_CHECKPOINT_STORE",
        help="file:///FOLDER or s3://BUCKET/PREFIX (with AWS_*); default: file://<data-dir>/checkpoints",
        show_envvar=True,
    ),
]
BlobStoreUrl = Annotated[
    str | None,
    typer.Option(
        envvar="HEADWAY_BLOB_STORE",
        help="Where large payloads, pictures and uploads lie: file:///FOLDER or s3://BUCKET/PREFIX (with AWS_*); "
        "default: file://<data-dir>/blobs",
        show_envvar=True,
    ),
]
SamplerToken = Annotated[
    str | None,
    typer.Option(
        envvar="HEADWAY_SAMPLER_TOKEN",
        help="Secret between gateway and samplers; this or a file of it must be given",
        show_default=False,
        show_envvar=True,
    ),
]
SamplerTokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="HEADWAY_SAMPLER_TOKEN_FILE",
        help="File of that secret, read again when replaced: the first line is sent, every line is accepted",
        show_default=False,
        show_envvar=True,
    ),
]


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    TEXT = "text"


LogFormatOption = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format",
        envvar="HEADWAY_LOG_FORMAT",
        help="json or text; default: text on a terminal, else json",
        show_default=False,
    ),
]
MetricsToken = Annotated[
    str | None,
    typer.Option(
        envvar="HEADWAY_METRICS_TOKEN",
        help="Token with which Prometheus may read /metrics",
        show_default=False,
        show_envvar=True,
    ),
]
MetricsTokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="HEADWAY_METRICS_TOKEN_FILE",
        help="File of that token, read again when replaced: every line is accepted",
        show_default=False,
        show_envvar=True,
    ),
]


def checkpoint_store_url(url: str | None, data_dir: Path) -> str:
    """The given URL, or the folder inside the data folder. Copies of what lies elsewhere go into the data folder, too,
    unless the URL says where."""
    return _store_url(url, data_dir / "checkpoints", data_dir / "checkpoint-copies")


def _store_url(url: str | None, folder: Path, copies: Path) -> str:
    if not url:
        return f"file://{quote(str(folder.resolve()))}"
    if url.startswith("s3://") and "cache=" not in url:
        return f"{url}{'&' if '?' in url else '?'}cache={quote(str(copies.resolve()))}"
    return url


def open_checkpoints(url: str | None, data_dir: Path) -> CheckpointStore:
    """The store at `checkpoint_store_url`, or the end of the command."""
    from store.checkpoint_stores import open_checkpoint_store

    try:
        return open_checkpoint_store(checkpoint_store_url(url, data_dir))
    except ValueError as error:
        stop_with(str(error))


def blob_store_url(url: str | None, data_dir: Path) -> str:
    """As `checkpoint_store_url`."""
    return _store_url(url, data_dir / "blobs", data_dir / "blob-copies")


def open_blobs(url: str | None, data_dir: Path) -> BlobStore:
    """The store at `blob_store_url`, or the end of the command."""
    from store.blob_stores import open_blob_store

    try:
        return open_blob_store(blob_store_url(url, data_dir))
    except ValueError as error:
        stop_with(str(error))


def stop_with(sentence: str, status: int = 1) -> NoReturn:
    """End the command with one sentence on stderr."""
    typer.echo(f"headway: {sentence}", err=True)
    raise typer.Exit(status)


def database_url_or_embedded(database_url: str | None, data_dir: Path) -> str:
    """The given URL, or the embedded database that `headway up` made in the data folder."""
    if database_url:
        return database_url
    folder = data_dir.resolve() / "postgres"
    try:
        is_there = folder.exists()
    except PermissionError:
        stop_with(
            f"this user may not look into {data_dir}; run it as who ran `headway up`, or set HEADWAY_DATABASE_URL"
        )
    if not is_there:
        stop_with(f"there is no database in {data_dir}; run `headway up` first, or set HEADWAY_DATABASE_URL")
    return embedded_database_url(data_dir)


def embedded_database_url(data_dir: Path) -> str:
    """The database embedded in the data folder, made where there is none, or the end of the command."""
    from store.embedded import EmbeddedPostgres, EmbeddedPostgresFailed

    try:
        return EmbeddedPostgres(data_dir.resolve() / "postgres").url
    except EmbeddedPostgresFailed as error:
        stop_with(str(error))
