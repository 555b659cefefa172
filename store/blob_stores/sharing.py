"""Threads that want the same at once: one fetches it, and the others wait for that."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager


class Fetches:
    """What threads of this process fetch at the moment, by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[None]] = {}

    @contextmanager
    def turn(self, name: str) -> Generator[bool]:
        """True for a thread that comes first: it fetches in the block. False for others, once that one is done. Raises
        for them what it raised."""
        with self._lock:
            fetch, is_first = self._under_way.get(name), name not in self._under_way
            if fetch is None:
                fetch = self._under_way[name] = Future()
        if not is_first:
            fetch.result()
            yield False
            return
        try:
            yield True
        except BaseException as error:
            self._end(name).set_exception(error)
            raise
        self._end(name).set_result(None)

    def _end(self, name: str) -> Future[None]:
        with self._lock:
            return self._under_way.pop(name)
