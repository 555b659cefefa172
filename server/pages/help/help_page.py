"""`/help`: the documentation, a page at a time."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from server.pages.help.documents import INDEX, document
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from wire.errors import NotFound

router = PageRouter()


@router.get("/help")
async def help_index(request: Request, visitor: VisitorDep) -> Response:
    """The pages by what the reader wants to do."""
    return _shown(request, visitor, INDEX)


@router.get("/help/{name:path}")
async def help_page(request: Request, visitor: VisitorDep, name: str) -> Response:
    """One page."""
    return _shown(request, visitor, name)


def _shown(request: Request, visitor: VisitorDep, name: str) -> Response:
    found = document(name)
    if found is None:
        raise NotFound(f"there is no page {name!r} in the documentation here; it is in docs/ of the repository")
    return page(request, "help/page.html", visitor, document=found, is_index=name == INDEX)
