"""Removes what was not used for long, while what is kept takes more room than it may."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from runner.environments.watching import size_of

_YOUNG_S = 600.0
"""What was used within so long is in use, or will be at once."""


def evict(kept: Iterable[Path], in_use: Collection[Path], max_bytes: float, now: float) -> list[Path]:
    """Removes the folders of `kept` that were used least recently until they fit; never one of `in_use`. Under another
    name first: whoever looks finds it whole, or not at all. Returns what it removed."""
    folders = [(path.stat().st_mtime, path) for path in kept if path.is_dir() and not path.name.startswith(".")]
    sizes = {path: size_of(str(path)) for _, path in folders}
    total = sum(sizes.values())
    removed: list[Path] = []
    for used_at, path in sorted(folders):
        if total <= max_bytes:
            break
        if path in in_use or now - used_at < _YOUNG_S:
            continue
        with suppress(OSError):
            gone = path.with_name(f".{path.name}-evicted-{os.getpid()}")
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            total -= sizes[path]
            removed.append(path)
    return removed
