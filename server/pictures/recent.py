"""What was made of bytes before: the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key, up to a weight in all. Belongs to one event loop."""

    def __init__(self, most: int, weight: Callable[[V], int] = lambda value: 1) -> None:
        self._most = most
        self._weight = weight
        self._values = OrderedDict[K, V]()
        self._held = 0

    def get(self, key: K) -> V | None:
        """The value, which is the youngest now; None where it is not kept."""
        if (value := self._values.get(key)) is not None:
            self._values.move_to_end(key)
        return value

    def keep(self, key: K, value: V) -> None:
        """Keep it, in place of the oldest."""
        if (before := self._values.pop(key, None)) is not None:
            self._held -= self._weight(before)
        self._values[key] = value
        self._held += self._weight(value)
        while self._held > self._most:
            _, oldest = self._values.popitem(last=False)
            self._held -= self._weight(oldest)
