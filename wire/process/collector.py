"""Python's collector of cycles, while a process loads what it will keep."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Generator[None]:
    """No collection of cycles inside. Loading makes objects by the hundred thousand and drops few, and each full
    collection meanwhile looks through all of torch's: a quarter of a second. What was paused already stays so."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
