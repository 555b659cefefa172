"""The pictures that a sampler was handed, by name: as many as fit, the least recently used ones go first."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar

from wire.errors import FINAL, HeadwayError, InvalidRequest, Unavailable
from wire.pictures import is_name
from wire.process.off_loop import off_loop
from wire.sampling import PICTURES_MISSING

_MAX_BYTES = 512 * 1024**2
_UNUSED_S = 3600.0
_RETRY_AFTER_S = 1


class PicturesMissing(HeadwayError):
    """The request names pictures that this sampler has not, or not any more; nothing was computed."""

    status: ClassVar[int] = 424
    code: ClassVar[str] = PICTURES_MISSING
    tries: ClassVar[int | None] = FINAL

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"this sampler lacks {len(names)} of the pictures: post them to /pictures/{{name}}, then ask again"
        )
        self.names = list(names)


@dataclass(slots=True)
class _Held:
    png: bytes
    used_at: float


class HeldPictures:
    """Canonical PNGs by name, at most `max_bytes` of them, and none for longer than `unused_s` after its last use.
    Those of a request under way stay. Belongs to an event loop. `clock`: seconds, of any beginning."""

    def __init__(
        self, max_bytes: int = _MAX_BYTES, unused_s: float = _UNUSED_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes = max_bytes
        self._unused_s = unused_s
        self._clock = clock
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    async def add(self, name: str, png: bytes) -> None:
        """Raises InvalidRequest for bytes of another name, and Unavailable where those in use leave no room."""
        if not is_name(name) or await off_loop(len(png), lambda: sha256(png).hexdigest()) != name:
            raise InvalidRequest(f"these bytes are not picture {name}, the SHA-256 of a PNG in hexadecimal")
        self._forget_unused()
        if name not in self._held:
            self._make_room(len(png))
            self._num_bytes += len(png)
            self._held[name] = _Held(png, self._clock())
        self._touch(name)

    def require(self, names: Iterable[str]) -> None:
        """Raises PicturesMissing."""
        self._forget_unused()
        if missing := sorted({name for name in names if name not in self._held}):
            raise PicturesMissing(missing)

    @contextmanager
    def using(self, names: Iterable[str]) -> Generator[Mapping[str, bytes]]:
        """The pictures of these names, which stay for the block. Raises PicturesMissing."""
        used = set(names)
        self.require(used)
        self._users.update(used)
        try:
            yield {name: self._held[name].png for name in used}
        finally:
            self._users -= Counter(used)
            for name in used:
                self._touch(name)

    def _touch(self, name: str) -> None:
        self._held[name].used_at = self._clock()
        self._held.move_to_end(name)

    def _forget_unused(self) -> None:
        """They lie in the order of their use."""
        oldest = self._clock() - self._unused_s
        for name in [name for name, held in self._held.items() if held.used_at < oldest and not self._users[name]]:
            self._drop(name)

    def _make_room(self, num_bytes: int) -> None:
        for name in [name for name in self._held if not self._users[name]]:
            if self._num_bytes + num_bytes <= self._max_bytes:
                return
            self._drop(name)
        if self._num_bytes + num_bytes > self._max_bytes:
            raise Unavailable(
                f"the pictures of the requests under way leave no room for {num_bytes} bytes in this sampler",
                retry_after_s=_RETRY_AFTER_S,
            )

    def _drop(self, name: str) -> None:
        self._num_bytes -= len(self._held.pop(name).png)
