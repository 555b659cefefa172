"""Style sheets and scripts, under an address that changes with their content, so that browsers keep them for good."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from pathlib import PurePosixPath

from fastapi.responses import Response

from server.http.access import ANYBODY
from server.http.routing import KeyedRouter
from wire.errors import NotFound

_FOLDER = resources.files("server.pages") / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FOR_GOOD = "public, max-age=31536000, immutable"

router = KeyedRouter(dependencies=[ANYBODY], include_in_schema=False)


@router.get("/static/{version}/{path:path}")
async def static_file(version: str, path: str) -> Response:
    """A file of the pages. No session: the login page needs them too. An old version gets the file of today."""
    content = _files().get(path)
    if content is None:
        raise NotFound(f"there is no file {path!r}; reload the page")
    caching = _FOR_GOOD if version == _version() else "no-cache"
    headers = {"Cache-Control": caching, "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type=_TYPES[PurePosixPath(path).suffix], headers=headers)


def static_url(path: str) -> str:
    """Where a browser finds a file. One version for all of them, so that modules import one another by plain names."""
    assert path in _files(), path
    return f"/static/{_version()}/{path}"


@cache
def _files() -> dict[str, bytes]:
    names = [*_names(""), *_names("vendor/")]
    return {name: _FOLDER.joinpath(name).read_bytes() for name in names}


def _names(folder: str) -> list[str]:
    found = _FOLDER.joinpath(folder).iterdir() if folder else _FOLDER.iterdir()
    return sorted(folder + file.name for file in found if PurePosixPath(file.name).suffix in _TYPES)


@cache
def _version() -> str:
    digest = hashlib.sha256()
    for name, content in _files().items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
