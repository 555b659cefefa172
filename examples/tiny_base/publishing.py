"""A folder that appears whole or not at all: it is built beside its place and renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def publish(out: Path, marker: str, build: Callable[[Path], None], is_built: Callable[[], bool]) -> None:
    """Have `build` fill a folder that becomes `out`. What is there with a file `marker` in it is replaced, another
    folder is left alone: FileExistsError. When another process was faster (`is_built`), its folder stays."""
    if out.exists() and any(out.iterdir()) and not (out / marker).is_file():
        raise FileExistsError(f"{out} exists and has no {marker}; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        build(scratch)
        _make_readable(scratch)
        if out.exists() and not is_built():
            shutil.rmtree(out)
        _rename(scratch, out, is_built)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _make_readable(folder: Path) -> None:
    """A sampler may run as another user than the one who built."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)


def _rename(scratch: Path, out: Path, is_built: Callable[[], bool]) -> None:
    try:
        os.replace(scratch, out)
    except OSError:
        if not is_built():
            raise
