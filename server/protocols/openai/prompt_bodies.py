"""How many bytes a request for a completion may have: as many as the prompts could take that the largest base has room
for, and of a chat the pictures of one request. Only a body beyond `Limits.small_body_bytes` asks what that is."""

from __future__ import annotations

from fastapi import Request

from server.catalog.repository import largest_context
from server.http.context import Context
from server.http.picture_bodies import room_for_pictures
from server.http.request_body import BodyBound, MoreRoom
from server.protocols.openai.schemas import MAX_CHOICES

_TOKEN_BYTES = 256
"""Of a body, for each token of a prompt: its id, and its text, which is up to 128 characters in vocabularies of today,
each of which may be escaped."""


def _up_to(num_prompts: int) -> MoreRoom:
    async def room_for_prompts(request: Request) -> int:
        context: Context = request.app.state.context
        limits = context.settings.limits
        async with context.database.session() as session:
            num_tokens = await largest_context(session)
        if num_tokens is None:  # of a base that no trainer has read yet
            return limits.body_bytes
        return min(limits.body_bytes, limits.small_body_bytes + num_prompts * num_tokens * _TOKEN_BYTES)

    return room_for_prompts


_ONE_TEXT = _up_to(1)


async def _one_chat(request: Request) -> int:
    return await _ONE_TEXT(request) + await room_for_pictures(request)


ONE_PROMPT = BodyBound(lambda limits: limits.small_body_bytes, _one_chat)
MANY_PROMPTS = BodyBound(lambda limits: limits.small_body_bytes, _up_to(MAX_CHOICES))
