"""A bar with bytes and percent on stderr."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Advance = Callable[[int], None]
"""Is called with the number of bytes that were done."""


@contextmanager
def progress_of(what: str, num_bytes: int | None) -> Generator[Advance]:
    """Shown where stderr is a terminal, and gone when the block ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TaskProgressColumn())
    console = Console(stderr=True)
    shown = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    with shown as progress:
        task = progress.add_task(what, total=num_bytes)
        yield lambda done: progress.advance(task, done)
