"""Has files written of the node that a path stands for, where it has none: any node of a tree can be named, also one
whose step wrote nothing."""

from __future__ import annotations

from server.catalog.heads import Heads, have_files
from server.checkpoint_names.resolving import Use, resolve_path
from server.principals.callers import Caller
from wire.errors import Forbidden, Gone, InvalidRequest, NotFound


async def have_path_files(heads: Heads, caller: Caller, path: str, use: Use) -> None:
    """Return when the path's node has files; at once for a path that whoever resolves it next will refuse.

    Raises Unavailable when no trainer has written them in time.
    """
    try:
        async with heads.database.session() as session:
            found = await resolve_path(session, caller, path, use)
    except (InvalidRequest, NotFound, Forbidden, Gone):
        return
    await have_files(heads, found.checkpoint)
