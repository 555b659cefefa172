"""Chats whose pictures were taken in: what is rendered, compared and recorded has names in the place of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from server.pictures.collaborators import Pictures
from server.pictures.taking import SentPicture, take_each
from server.sampling.image_parts import IMAGE
from server.sampling.requests import PICTURE, Chat, Part, Rollout
from server.sampling.target import Target
from wire.errors import InvalidRequest
from wire.pictures import Picture

Message = dict[str, Any]


async def with_pictures(pictures: Pictures, target: Target, chat: Chat) -> Chat:
    """The same chat, its pictures stored for the target's team. Raises InvalidRequest where the target's base reads
    texts alone, and what `take_each` raises."""
    sent = list(_sent(chat.render.messages))
    if not sent:
        return chat
    if not target.reads_pictures:
        raise InvalidRequest(
            f"{sent[0].where} is a picture, and {target.base_slug!r}, the base of {target.slug!r}, reads texts alone; "
            "send text, or use a model whose base reads pictures",
            param=sent[0].where,
        )
    taken = iter(await take_each(pictures, target.team_id, sent))
    plain = [_named(message, taken) for message in chat.render.messages]
    recorded = [_recorded(*pair) for pair in zip(chat.messages, plain, strict=True)]
    return replace(chat, render=chat.render.model_copy(update={"messages": plain}), messages=recorded)


def without_picture_bytes(rollout: Rollout | None, chat: Chat) -> Rollout | None:
    """The rollout of a chat as it was sent, by what of the request there will be to record."""
    if rollout is None:
        return None
    num_bytes = sum(len(one.source) for one in _sent(chat.render.messages))
    return replace(rollout, num_bytes=max(rollout.num_bytes - num_bytes, 0)) if num_bytes else rollout


def _sent(messages: Sequence[Mapping[str, Any]]) -> Iterator[SentPicture]:
    for message in messages:
        if isinstance(message["content"], list):
            yield from (part["sent"] for part in message["content"] if part["type"] == IMAGE)


def _named(message: Message, taken: Iterator[Picture]) -> Message:
    if not isinstance(message["content"], list):
        return message
    return {**message, "content": [_part(next(taken)) if p["type"] == IMAGE else p for p in message["content"]]}


def _part(picture: Picture) -> Part:
    return {"type": PICTURE, "name": picture.name, "width": picture.width, "height": picture.height}


def _recorded(sent: Message, plain: Message) -> Message:
    """A message as the client sent it, but for its pictures. Its parts are those of `plain`, one by one."""
    if not isinstance(plain["content"], list):
        return sent
    pairs = zip(sent["content"], plain["content"], strict=True)
    return {**sent, "content": [shown if shown["type"] == PICTURE else part for part, shown in pairs]}
