"""Wall clocks of simulated hosts, by a library that is compiled here and preloaded there (clock.c)."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.fleet.commands import run

OFFSET_FILE, LIBRARY = "/run/headway-clock", "/run/headway-clock.so"
"""Where a process finds them."""


class Clock:
    """Of one host, kept in its folder. Offsets hold at once, also for processes that run."""

    def __init__(self, folder: Path) -> None:
        self._file, self._library = folder / "clock", folder.parent / "clock.so"

    def set(self, offset_s: float) -> None:
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", round(offset_s * 1e9)))
        if not self._library.exists():
            source = Path(__file__).with_name("clock.c")
            run("cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl")

    @property
    def mounts(self) -> dict[str, Path]:
        return {OFFSET_FILE: self._file, LIBRARY: self._library}

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": LIBRARY, "CLOCK_OFFSET_FILE": OFFSET_FILE}
