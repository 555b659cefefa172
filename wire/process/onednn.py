"""How many kernels oneDNN keeps."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

CACHES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"
"""Variables, read once a process."""


def keep_few_kernels(number: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """For the whole process, unless its environment says how many; before anything is multiplied by oneDNN.

    oneDNN makes a kernel for each number of rows and shape of layer, in half a millisecond and more, and it takes a
    megabyte or so. It keeps 1,024, and torch as many again in each thread: 1.5 GB once there have been passes of enough
    lengths.
    """
    for cache in CACHES:
        environment.setdefault(cache, str(number))
