"""What the tests of the reader have done elsewhere: functions that another process can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from wire.errors import TooLarge


def describe(data: bytes) -> tuple[int, int, set[str]]:
    """Where this runs, how much came, and what the environment tells."""
    return os.getpid(), len(data), set(os.environ)


def refuse(data: bytes, limit: int) -> None:
    raise TooLarge(f"{len(data)} bytes are more than {limit}")


def fail(data: bytes) -> None:
    raise ZeroDivisionError


def nest(data: bytes, levels: int) -> Any:
    """A number within so many lists."""
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def die(data: bytes, marks: Path, times: int) -> int:
    """Kill this process so many times, then say how many bytes came."""
    if len(done := marks.read_text()) < times:
        marks.write_text(done + "x")
        os.kill(os.getpid(), signal.SIGKILL)
    return len(data)


def begin_and_wait(data: bytes, mark: Path) -> None:
    mark.write_text("begun")
    time.sleep(60)
