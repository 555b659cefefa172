"""A request's random numbers: one uniform number a token, from a stream of its own."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

from wire.sampling import MediaItem


class Draws:
    """Hands out streams. A request's seed alone decides its stream.

    Without one, the backend's seed, the prompt, and how often that prompt was asked for since the start decide, so
    that a seeded run repeats while rollouts of one prompt differ. Without any seed, the operating system decides.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._times_asked: Counter[bytes] = Counter()

    def stream(
        self, request_seed: int | None, prompt_ids: Sequence[int], media: Sequence[MediaItem] = ()
    ) -> random.Random:
        """A new stream of uniform numbers. Prompts that show other pictures are others."""
        if request_seed is not None:
            return _stream(b"request", str(request_seed).encode())
        if self._seed is None:
            return random.Random()  # noqa: S311
        shown = b"".join(_bytes_of(item) for item in media)
        prompt = blake2b(array("q", prompt_ids).tobytes() + shown, digest_size=16).digest()
        self._times_asked[prompt] += 1
        return _stream(b"backend", f"{self._seed}/{self._times_asked[prompt]}/".encode(), prompt)


def _bytes_of(item: MediaItem) -> bytes:
    """It begins with a number that is no id, so that no ids read as a picture."""
    return array("q", [-1, item.start, item.num_tokens]).tobytes() + bytes.fromhex(item.name)


def _stream(*origin: bytes) -> random.Random:
    # Bytes, because random.Random takes the absolute value of a number: -1 and 1 would be one stream.
    return random.Random(b"/".join(origin))  # noqa: S311
