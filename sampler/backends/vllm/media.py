"""Pictures in vLLM: each is handed over once in a server's life, and prompts then name it.

vLLM takes a picture in one of two ways. With its bytes (`content_parts`) it expands the prompt itself, which has one
placeholder a picture then, also where the ids hold a placeholder that is text. By the name of one that it has processed
before (`features`), with the place of its run, ids stay as they are: so do prompts come here. The bytes go before, in a
prompt of their own of which nothing is kept, under the picture's name; that vLLM makes as many tokens of it as the
base's rule is seen by its answer.

vLLM keeps pixels in a cache, whose least recently used ones go; what is remembered here is meant to be less. A name
that it has not, or not any more, it answers with an error 500, and lives on: whoever gets one hands the pictures over
again, and asks once more.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import structlog

from sampler.pictures.pixels import opened
from wire.errors import UNTIL_MENDED, HeadwayError, InvalidRequest, Unavailable
from wire.picture_rule import PictureRule
from wire.sampling import MediaItem

log = structlog.get_logger(__name__)

_AT_ONCE = 8
"""Pictures in one request, whose bytes are in its body."""
_NUM_THREADS = 16
_SHARE = 0.75
"""Of vLLM's cache: it counts a little more than pixels."""
_FRAMES = 2
"""Qwen's towers take two of everything, since they see videos, too; a picture is both."""
_FLOAT_BYTES = 4

_Answer = TypeVar("_Answer")
Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""Asks the server to generate: a body without the model. Blocks. Raises HeadwayError."""


def features(media: Sequence[MediaItem]) -> dict[str, Any]:
    """What a request to generate says of the pictures in its prompt; nothing where there are none."""
    if not media:
        return {}
    places = [{"offset": item.start, "length": item.num_tokens} for item in media]
    hashes = {"image": [item.name for item in media]}
    return {"features": {"mm_hashes": hashes, "mm_placeholders": {"image": places}, "kwargs_data": None}}


class PicturesLost(Unavailable):
    """vLLM failed over a prompt although it had been handed the pictures anew."""

    code: ClassVar[str] = "pictures_lost"
    tries: ClassVar[int | None] = UNTIL_MENDED


def _is_failure(error: HeadwayError) -> bool:
    """Whether vLLM stumbled, as it does where it has lost a picture: it has no other word for that."""
    return type(error) is HeadwayError


class HandedOver:
    """What one server has of pictures, as far as is known. From any thread.

    rule: None for a base that takes none, of which no prompt has any. template_id: the token that stands for a picture
    in a prompt that vLLM expands. cache_bytes: of vLLM's cache. ask: the base.
    """

    def __init__(self, rule: PictureRule | None, template_id: int, cache_bytes: int, ask: Ask) -> None:
        self._rule = rule
        self._template_id = template_id
        self._max_bytes = int(_SHARE * cache_bytes)
        self._ask = ask
        self._known: OrderedDict[str, int] = OrderedDict()
        self._num_bytes = 0
        self._under_way: set[str] = set()
        self._changed = threading.Condition()
        self._life = 0
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="vllm-pictures")

    async def asked(
        self, media: Sequence[MediaItem], pictures: Mapping[str, bytes], ask: Callable[[], Awaitable[_Answer]]
    ) -> _Answer:
        """What vLLM answers to a prompt with these pictures, which it has by then. Raises PicturesLost, and what
        `hand_over` raises."""
        for is_last in (False, True):
            await self._ready(media, pictures)
            try:
                return await ask()
            except HeadwayError as error:
                self._look_at(error, media, is_last)
        raise AssertionError

    def asked_now(
        self, media: Sequence[MediaItem], pictures: Mapping[str, bytes], ask: Callable[[], _Answer]
    ) -> _Answer:
        """The same. Blocks."""
        for is_last in (False, True):
            self.hand_over(media, pictures)
            try:
                return ask()
            except HeadwayError as error:
                self._look_at(error, media, is_last)
        raise AssertionError

    def _look_at(self, error: HeadwayError, media: Sequence[MediaItem], is_last: bool) -> None:
        """Raises where it is not worth asking once more."""
        if not media or not _is_failure(error):
            raise error
        if is_last:
            raise PicturesLost(f"vLLM fails over a prompt with these pictures: {error.message}") from error
        log.warning("pictures_lost", reason=error.message, pictures=len(media))
        self._forget(media)

    async def _ready(self, media: Sequence[MediaItem], pictures: Mapping[str, bytes]) -> None:
        if not self._has(media):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, self.hand_over, media, pictures)

    def hand_over(self, media: Iterable[MediaItem], pictures: Mapping[str, bytes]) -> None:
        """When this returns, the server had each of these at least for a moment. `pictures`: canonical PNGs by name.
        Blocks. Raises InvalidRequest for more than it keeps and for bytes that are not what the media say, and
        HeadwayError."""
        left = {item.name: item for item in media}
        if sum(map(self._bytes_of, left.values())) > self._max_bytes:
            raise InvalidRequest(
                "the pictures of this prompt are more than vLLM keeps: show fewer or smaller ones, or give it a larger "
                "--mm-processor-cache-gb"
            )
        while left:
            life, mine = self._claim(left)
            try:
                self._send([left[name] for name in mine], pictures)
            except BaseException:
                self._release(mine)
                raise
            self._remember([left.pop(name) for name in mine], life)

    def _forget(self, media: Iterable[MediaItem]) -> None:
        """The server has lost some of these."""
        with self._changed:
            for item in media:
                self._num_bytes -= self._known.pop(item.name, 0)

    def forget_all(self) -> None:
        """The server is another one."""
        with self._changed:
            self._known.clear()
            self._num_bytes = 0
            self._life += 1

    def close(self) -> None:
        """End."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _has(self, media: Iterable[MediaItem]) -> bool:
        names = {item.name for item in media}
        with self._changed:
            if not names <= self._known.keys():
                return False
            self._touch(names)
        return True

    def _claim(self, left: dict[str, MediaItem]) -> tuple[int, list[str]]:
        """Some that nobody hands over now, for the caller to. What is known goes out of `left`; waits where others are
        at all that is left."""
        with self._changed:
            while True:
                known = left.keys() & self._known.keys()
                self._touch(known)
                for name in known:
                    del left[name]
                mine = [name for name in left if name not in self._under_way][:_AT_ONCE]
                if mine or not left:
                    self._under_way.update(mine)
                    return self._life, mine
                self._changed.wait()

    def _release(self, names: Iterable[str]) -> None:
        with self._changed:
            self._under_way.difference_update(names)
            self._changed.notify_all()

    def _remember(self, items: Sequence[MediaItem], life: int) -> None:
        with self._changed:
            if life == self._life:
                for item in items:
                    self._num_bytes += self._bytes_of(item) - self._known.get(item.name, 0)
                    self._known[item.name] = self._bytes_of(item)
                while self._num_bytes > self._max_bytes:
                    self._num_bytes -= self._known.popitem(last=False)[1]
        self._release(item.name for item in items)

    def _touch(self, names: Iterable[str]) -> None:
        for name in names:
            self._known.move_to_end(name)

    def _send(self, items: Sequence[MediaItem], pictures: Mapping[str, bytes]) -> None:
        if not items:
            return
        for item in items:  # whose size decides positions; vLLM would go by that of the bytes
            opened(pictures[item.name], item.width, item.height)
        body = {
            "token_ids": [self._template_id] * len(items),
            "content_parts": [
                {"type": "image_url", "url": _data_url(pictures[item.name]), "uuid": item.name} for item in items
            ],
            "sampling_params": {"max_tokens": 1, "temperature": 0.0, "detokenize": False, "ignore_eos": True},
            "return_token_ids": True,
        }
        self._check(items, self._asked_twice(body))

    def _asked_twice(self, body: dict[str, Any]) -> dict[str, Any]:
        """Its front may believe that its engine has what that has lost; it knows better after the first time."""
        try:
            return self._ask(body)
        except HeadwayError as error:
            if not _is_failure(error):
                raise
            log.warning("picture_not_taken", reason=error.message)
            return self._ask(body)

    def _check(self, items: Sequence[MediaItem], answer: dict[str, Any]) -> None:
        assert self._rule is not None
        ids: list[int] = answer["prompt_token_ids"]
        places: list[dict[str, int]] = answer["mm_placeholders"]["image"]
        for item, place in zip(items, places, strict=True):
            made = ids[place["offset"] : place["offset"] + place["length"]].count(self._rule.placeholder_id)
            if made != item.num_tokens:
                raise Unavailable(
                    f"vLLM makes {made} tokens of a picture of {item.width}×{item.height} pixels, which has "
                    f"{item.num_tokens} by the base's files: it was started with another image processor"
                )

    def _bytes_of(self, item: MediaItem) -> int:
        """What vLLM keeps of it: bytes of patches which it makes numbers of on its device, or numbers."""
        assert self._rule is not None
        values = 3 * self._rule.num_patches(item.width, item.height) * self._rule.patch**2
        return _FRAMES * values if self._rule.kind == "patches" else _FLOAT_BYTES * values


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
