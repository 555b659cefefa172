"""The pictures of chats: taken in, and their bytes dropped, which would otherwise stay for as long as is sampled."""

from __future__ import annotations

from fastapi import Request

from server.http.context import Context
from server.http.request_body import forget_body
from server.sampling.picturing import with_pictures
from server.sampling.requests import Chat
from server.sampling.target import Target


async def take_pictures(context: Context, request: Request, target: Target, chat: Chat) -> Chat:
    """The chat with names in the place of its pictures. Where it has any, the request's body is forgotten; what was
    parsed of it is the caller's to drop. Raises what `with_pictures` raises."""
    pictured = await with_pictures(context.pictures, target, chat)
    if pictured is not chat:
        forget_body(request)
    return pictured
