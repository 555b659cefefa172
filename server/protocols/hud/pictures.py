"""Pictures in and out by themselves: for imports, whose lines name them, and for whoever reads rollouts."""

from __future__ import annotations

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel

from server.catalog.repository import as_uuid
from server.http.authentication import CallerDep
from server.http.context import Context, ContextDep
from server.http.picture_replies import png_reply
from server.http.request_body import BodyBound
from server.pictures.showing import picture_of_trace
from server.pictures.taking import SentPicture, take_each
from server.protocols.hud.shared.routing import HudRouter
from server.rollouts.visibility import require_trace
from wire.errors import NotFound


async def _most_bytes(request: Request) -> int:
    context: Context = request.app.state.context
    return context.settings.pictures.limits.bytes_each


ONE_PICTURE = BodyBound(lambda limits: limits.small_body_bytes, more=_most_bytes)

router = HudRouter(tags=["traces"])


class TakenPicture(BaseModel):
    """A picture that is kept: under the SHA-256 of the PNG that was made of it. `location`: what messages and prompts
    may say instead of its bytes."""

    name: str
    width: int
    height: int
    location: str


@router.post(
    "/v2/pictures",
    dependencies=[Depends(ONE_PICTURE)],
    openapi_extra={
        "requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def add_picture(context: ContextDep, caller: CallerDep, request: Request) -> TakenPicture:
    """Keep a picture, the body, as one in a message would be: a PNG, JPEG, WebP, BMP or GIF of one frame. It goes again
    where no rollout names it within a day."""
    (taken,) = await take_each(context.pictures, caller.team_id, [SentPicture("the body", await request.body())])
    return TakenPicture(name=taken.name, width=taken.width, height=taken.height, location=taken.location)


@router.get("/v2/traces/{trace_id}/pictures/{picture}", response_class=Response)
async def trace_picture(
    context: ContextDep, caller: CallerDep, trace_id: str, picture: str, size: int | None = None
) -> Response:
    """A picture that the rollout names, as a PNG. size: with so many pixels at most on its longer side, 160, 320 or
    640."""
    found_id = as_uuid(trace_id)
    if found_id is None:
        raise NotFound(f"there is no trace {trace_id}")
    await require_trace(context.database, caller, found_id)
    return png_reply(
        await picture_of_trace(context.database, context.pictures, caller.team_id, found_id, picture, size)
    )
