"""Processes that do nothing but use a core, for benches of what busy neighbours cost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager


@contextmanager
def busy_loops(number: int) -> Generator[None]:
    """So many endless loops, until the end of the block."""
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(_endless_loop())
        yield


@contextmanager
def _endless_loop() -> Generator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
