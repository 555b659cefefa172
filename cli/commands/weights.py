"""`headway model export`, `push` and `import`: trained weights out of the service, and adapters into it."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal
from urllib.parse import quote

import typer

from cli.ending import or_stop
from cli.service.client import Key, Url, checked, service_client
from cli.service.environment import ADMIN_ENV, read_env
from cli.settings import DEFAULT_DATA_DIR, DataDir, stop_with
from cli.weights.targets import new_file, new_folder, refuse_existing

if TYPE_CHECKING:
    import httpx

Model = Annotated[str, typer.Argument(help="The model's name or id")]
Checkpoint = Annotated[str, typer.Option("--checkpoint", "-c", help="Name or id of a checkpoint")]
Merged = Annotated[
    bool, typer.Option("--merged", help="The whole model: the base's weights with the adapter merged in")
]
Base = Annotated[
    str | None,
    typer.Option("--base", help="For --merged: folder or hub id of the base; default: what the adapter names"),
]
Dtype = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option("--dtype", help="For --merged: what to store weights in; default: as the base has them"),
]

_CHUNK = 1024**2
_MOST_BASES = 500
_REPO = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")


def export(
    model: Model,
    checkpoint: Checkpoint = "head",
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder to make, or a file that ends in .tar; default: the model's name")
    ] = None,
    merged: Merged = False,
    base: Base = None,
    dtype: Dtype = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write a checkpoint's adapter in PEFT's layout, or with --merged the whole model, as a folder. Nothing is
    overwritten; what is not complete is called NAME.part."""
    _refuse_idle(base, dtype, merged=merged)
    with service_client(url, key, data_dir) as http:
        base = base or (_path_of_base(http, model, data_dir) if merged else None)
        target = or_stop(lambda: _export(http, model, checkpoint, to, merged=merged, base=base, dtype=dtype))
    typer.echo(f"wrote {target}")


def push(
    model: Model,
    repo: Annotated[str, typer.Argument(help="The repository at the hub, as NAME or ORG/NAME")],
    checkpoint: Checkpoint = "head",
    merged: Merged = False,
    base: Base = None,
    dtype: Dtype = None,
    public: Annotated[bool, typer.Option("--public", help="Make a repository that everybody can read")] = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Send a checkpoint's adapter, or with --merged the whole model, to a hub (HF_ENDPOINT, HF_TOKEN). A new repository
    is private."""
    from cli.weights import hub

    _refuse_idle(base, dtype, merged=merged)
    if not _REPO.fullmatch(repo):
        stop_with(f"{repo!r} is no repository: write NAME or ORG/NAME")
    or_stop(hub.require_hub)
    with tempfile.TemporaryDirectory() as scratch, service_client(url, key, data_dir) as http:
        base = base or (_path_of_base(http, model, data_dir) if merged else None)
        folder = Path(scratch) / "model"
        or_stop(lambda: _export(http, model, checkpoint, folder, merged=merged, base=base, dtype=dtype))
        message = f"{model}, checkpoint {checkpoint}"
        where = or_stop(lambda: hub.push(folder, repo, message, private=not public))
    typer.echo(f"pushed {model} to {where}")


def import_(
    source: Annotated[Path, typer.Argument(help="Folder in PEFT's layout, or a .tar of one, as export writes them")],
    base: Annotated[str, typer.Option("--base", help="The base at the service: its name, or its id at the hub")],
    name: Annotated[str, typer.Option("--name", help="What the model shall be called")],
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make a model of a LoRA adapter that was trained elsewhere. A sampler of the base loads it first; training goes on
    from it with fresh moments."""
    with tempfile.TemporaryFile() as archive, service_client(url, key, data_dir) as http:
        or_stop(lambda: _pack(source, archive))
        size = archive.seek(0, 2)
        archive.seek(0)
        query = {"base_model": base, "slug": name, "name": "imported"}
        content, headers = _pieces(archive, size), {"Content-Length": str(size)}
        reply = http.post("/api/v1/external_weights_upload", params=query, content=content, headers=headers)
        path = checked(reply).json()["tinker_path"]
    typer.echo(f"made the model {name} ({path})")


def _export(
    http: httpx.Client,
    model: str,
    checkpoint: str,
    to: Path | None,
    *,
    merged: bool,
    base: str | None,
    dtype: str | None,
) -> Path:
    from cli.weights.download import download_adapter, download_archive, name_of_adapter

    called = name_of_adapter(http, model, checkpoint)
    target = to or Path(f"{called}-merged" if merged else called)
    refuse_existing(target)
    if target.suffix == ".tar" and not merged:
        with new_file(target) as part:
            download_archive(http, model, checkpoint, part)
        return target
    with new_folder(target) as part:
        if not merged:
            download_adapter(http, model, checkpoint, part)
            return target
        with tempfile.TemporaryDirectory() as scratch:
            download_adapter(http, model, checkpoint, Path(scratch))
            _merge(Path(scratch), part, base, dtype)
    return target


def _merge(adapter: Path, out: Path, base: str | None, dtype: str | None) -> None:
    try:
        from cli.weights.adapters import Adapter
        from cli.weights.bases import BaseFolder, find_base
        from cli.weights.card import write_card
        from cli.weights.merging import merge
    except ModuleNotFoundError as error:
        raise ValueError(f"merging needs {error.name}; install headway[trainer], or export without --merged") from None
    loaded = Adapter(adapter)
    merge(BaseFolder(find_base(base or loaded.base)), loaded, out, dtype)
    write_card(adapter, out)


def _path_of_base(http: httpx.Client, model: str, data_dir: Path) -> str | None:
    """Where the weights of the model's base are, for whoever may read the operator's key of a service on this machine:
    other clients are not given paths of the server's."""
    operator = read_env(data_dir / ADMIN_ENV)
    if operator.get("HUD_API_URL") != str(http.base_url).rstrip("/"):
        return None
    named = checked(http.get(f"/v2/models/{quote(model, safe='')}")).json()["base_model"]
    headers = {"Authorization": f"Bearer {operator['HUD_API_KEY']}"}
    reply = http.get("/v2/admin/bases", params={"limit": _MOST_BASES}, headers=headers)
    items = reply.json()["items"] if reply.is_success else []
    return next((item["weights"] for item in items if item["name"] == named and Path(item["weights"]).is_dir()), None)


def _refuse_idle(base: str | None, dtype: str | None, *, merged: bool) -> None:
    if not merged and (base or dtype):
        stop_with(f"{'--base' if base else '--dtype'} is for --merged: an adapter is written as it was trained")


def _pack(source: Path, archive: BinaryIO) -> None:
    from cli.weights.download import CONFIG, WEIGHTS

    if source.is_file():
        with source.open("rb") as file:
            while chunk := file.read(_CHUNK):
                archive.write(chunk)
        return
    if not source.is_dir():
        raise ValueError(f"there is nothing at {source}")
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in (CONFIG, WEIGHTS):
            if not (source / name).is_file():
                raise ValueError(f"{source} has no {name}; it must be a LoRA adapter in PEFT's layout")
            tar.add((source / name).resolve(), name)


def _pieces(archive: BinaryIO, size: int) -> Iterator[bytes]:
    from cli.weights.progress import progress_of

    with progress_of("uploading", size) as advance:
        while chunk := archive.read(_CHUNK):
            yield chunk
            advance(len(chunk))
