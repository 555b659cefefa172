"""Where results are written: as NAME.part, which is renamed when it is complete, and never over what is there."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from store.disk.durable import sync_folder


@contextmanager
def new_file(target: Path) -> Generator[Path]:
    """A path to write a file to. Raises FileExistsError for a target that is there, before the block and after it."""
    refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        yield part
        refuse_existing(target)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """An empty folder to fill. Raises as `new_file`."""
    refuse_existing(target)
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        refuse_existing(target)
        part.replace(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def refuse_existing(target: Path) -> None:
    """Raises FileExistsError."""
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{target} exists; remove it, or name another place with --to")
