"""The pictures of a chat in its token ids: where a template wrote one, as many placeholder ids as the picture has.

Templates write a short text in a picture's place, and everybody may write that text: messages that spell it are
refused. Control tokens divide a text before all else, so that the ids around a run do not depend on its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wire.errors import InvalidRequest
from wire.media_items import media_of
from wire.picture_rule import PictureRule
from wire.picture_runs import longest_run, sequence_of
from wire.pictures import Picture, PictureLimits, is_name
from wire.sampling import MediaItem, RenderRequest

Message = Mapping[str, Any]

_MAX_SIDE = PictureLimits().side


class Expander:
    """By the rule of a base whose tokenizer writes the placeholder as `placeholder`. encode: text to ids, with nothing
    put around it. check: raises ContextLengthExceeded for so many tokens."""

    def __init__(
        self, rule: PictureRule, placeholder: str, encode: Callable[[str], list[int]], check: Callable[[int], None]
    ) -> None:
        self._rule = rule
        self._placeholder = placeholder
        self._encode = encode
        self._check = check

    def refuse_spelled(self, *values: Any) -> None:
        """Raises InvalidRequest for a text in these messages, tools and the like that would read as a picture."""
        for text in _texts(values):
            for name in (self._rule.template_text, self._placeholder):
                if name in text:
                    raise InvalidRequest(
                        f"the messages spell {name}, which stands for a picture in this base's prompts"
                    )

    def expand(self, rendered: str, pictures: Sequence[Picture]) -> tuple[list[int], list[MediaItem]]:
        """What a template wrote of a chat with these pictures, as ids, and the runs in them. Raises InvalidRequest."""
        written = rendered.count(self._rule.template_text)
        if written < len(pictures):
            raise InvalidRequest(f"this base's chat template shows {written} of the {len(pictures)} pictures")
        lengths = [self._rule.num_tokens(picture.width, picture.height) for picture in pictures]
        self._check(sum(lengths))
        ids = self._encode(rendered.replace(self._rule.template_text, self._in_its_place))
        places = [at for at, token_id in enumerate(ids) if token_id == self._rule.placeholder_id]
        if len(places) != len(pictures):
            raise InvalidRequest(
                f"the rendered messages have {self._placeholder} {len(places)} times for {len(pictures)} pictures: it "
                "stands for a picture, and nothing else may spell it"
            )
        expanded, media, behind = list[int](), list[MediaItem](), 0
        for picture, length, at in zip(pictures, lengths, places, strict=True):
            expanded += ids[behind:at]
            media.append(_item(len(expanded), length, picture))
            expanded += [self._rule.placeholder_id] * length
            behind = at + 1
        return expanded + ids[behind:], media

    def continued_media(self, request: RenderRequest) -> list[MediaItem]:
        """The runs in the ids that a chat goes on from: as the request says, or else those of the pictures of the
        messages that the ids cover, in their order. Raises InvalidRequest, also where messages without pictures cover a
        run that no policy wrote: as text, the prompt would be one that sees nothing."""
        ids = request.continued_ids or []
        if request.continued_media:
            sequence_of(self._rule, "continued_ids", np.array(ids, np.int32), media_of(request.continued_media))
            return list(request.continued_media)
        media, at = list[MediaItem](), 0
        for number, message in enumerate(request.messages[: request.continued_messages]):
            for picture in pictures_of([message]):
                item = self._next_run(ids, at, picture, f"messages[{number}]")
                media.append(item)
                at = item.start + item.num_tokens
        if longest_run(np.array(ids[at:], np.int32), self._rule.placeholder_id) >= (
            1 if media else max(2, self._rule.min_tokens)
        ):
            raise InvalidRequest(
                f"continued_ids show more pictures than the {len(media)} of the messages they cover; send the pictures "
                "again in the messages"
            )
        return media

    @property
    def _in_its_place(self) -> str:
        return f"{self._rule.text_before}{self._placeholder}{self._rule.text_after}"

    def _next_run(self, ids: list[int], at: int, picture: Picture, where: str) -> MediaItem:
        length = self._rule.num_tokens(picture.width, picture.height)
        placeholder_id = self._rule.placeholder_id
        start = ids.index(placeholder_id, at) if placeholder_id in ids[at:] else len(ids)
        if ids[start : start + length] != [placeholder_id] * length:
            raise InvalidRequest(
                f"{where} has a picture of {picture.width}×{picture.height} pixels, and continued_ids have no run of "
                f"its {length} tokens there"
            )
        return _item(start, length, picture)


def pictures_of(messages: Iterable[Message]) -> list[Picture]:
    """Of messages as `RenderRequest` has them, in their order. Raises InvalidRequest for one that is not as it should
    be."""
    contents = (message.get("content") for message in messages)
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return [_picture(part) for part in parts if isinstance(part, dict) and part.get("type") == "picture"]


def _picture(part: Mapping[str, Any]) -> Picture:
    name, width, height = part.get("name"), part.get("width"), part.get("height")
    sizes = [side for side in (width, height) if isinstance(side, int) and 1 <= side <= _MAX_SIDE]
    if isinstance(name, str) and is_name(name) and len(sizes) == 2:
        return Picture(name, *sizes)
    raise InvalidRequest('a picture should look like {"type": "picture", "name", "width", "height"}')


def _item(start: int, num_tokens: int, picture: Picture) -> MediaItem:
    return MediaItem(start=start, num_tokens=num_tokens, name=picture.name, width=picture.width, height=picture.height)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, keys among them."""
    rest: list[Any] = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            rest += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple):
            rest += part
