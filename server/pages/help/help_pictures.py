"""Pictures of the documentation."""

from __future__ import annotations

from fastapi.responses import Response

from server.http.access import ANYBODY
from server.http.routing import KeyedRouter
from server.pages.help.documents import picture
from wire.errors import NotFound

router = KeyedRouter(dependencies=[ANYBODY], include_in_schema=False)


@router.get("/help/pictures/{name}")
async def help_picture(name: str) -> Response:
    """A file of `docs/pictures/`. No session: they are those of the repository."""
    content = picture(name)
    if content is None:
        raise NotFound(f"there is no picture {name!r}")
    return Response(content, media_type="image/png", headers={"X-Content-Type-Options": "nosniff"})
