"""How a collection and a writer of the same blob find out about one another in a bucket, which has no rename.

Both write before they look (Dekker's algorithm); a bucket shows every write to every later read:

    collector: put a tombstone that names the blobs · look at their ages · delete the old ones, while the tombstone is
               young · remove the tombstone
    writer:    put the blob (young from now on) · list tombstones · where none names it, look whether it is there

A writer that lists tombstones before the tombstone is there has put its blob before the collector looks at ages: it is
young, and stays. One that lists while it stands waits until it is gone, and puts again. One that lists after it was
removed may have put its blob before the deletion: then it finds the blob missing, and puts again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

from store.object_store.bucket import Bucket, NoSuchObject
from wire.errors import Unavailable

FOLDER = "tombstones/"
LIFE_S = 600.0
"""By the store's clock. Writers ignore an older one: whoever wrote it is dead."""
_TO_BEGIN_S = 120.0
"""After which its writer does not begin to delete any more, by the store's clock as well: ours stands still while a
machine is suspended. It looks before each sending of a request. What is between the two is more than a request is on
its way for."""
_PAUSE_S = 0.2
_PATIENCE_S = 30.0
_MOST_KNOWN = 64


class Tombstones:
    """Objects in the bucket of the blobs, each a list of names. Threads may share them."""

    def __init__(self, bucket: Bucket, clock: Callable[[], float] = time.monotonic) -> None:
        self._bucket = bucket
        self._clock = clock
        self._known: dict[str, frozenset[str]] = {}

    @contextmanager
    def standing(self, names: Sequence[str]) -> Generator[Callable[[], None]]:
        """While the block runs, writers of these wait. It gets a function to call right before each sending of a
        request that deletes, which raises Unavailable when that is too late.

        Where the block raises after that, the tombstone stays until it expires: a deletion that was not answered may
        yet happen.
        """
        key, deletes = f"{FOLDER}{uuid.uuid4().hex}", False
        self._bucket.put(key, json.dumps(list(names)).encode())

        def check() -> None:
            nonlocal deletes
            found = self._bucket.find(key)
            if found is None or found.age_s > _TO_BEGIN_S:
                raise Unavailable("looking at the ages of blobs took too long to delete any; the next collection will")
            deletes = True

        try:
            yield check
        except Exception:
            if not deletes:
                with suppress(Unavailable):
                    self._bucket.delete([key])
            raise
        self._bucket.delete([key])

    def wait(self, name: str) -> bool:
        """Whether one named this blob: then it does not any more. Raises Unavailable when that lasts too long."""
        until, waited = self._clock() + _PATIENCE_S, False
        while self._names(name):
            if self._clock() > until:
                raise Unavailable("a collection of blobs that was interrupted names what is to be stored; try again")
            waited = True
            time.sleep(_PAUSE_S)
        return waited

    def _names(self, name: str) -> bool:
        living = [one.key for one in self._bucket.list(FOLDER) if one.age_s < LIFE_S]
        return any(name in self._content(key) for key in living)

    def _content(self, key: str) -> frozenset[str]:
        found = self._known.get(key)
        if found is None:
            try:
                found = frozenset(json.loads(self._bucket.get(key)))
            except NoSuchObject:
                return frozenset()  # its collection ended this moment
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = found
        return found
