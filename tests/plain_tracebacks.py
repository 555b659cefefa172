"""structlog as tests have it. Its own tracebacks, where rich is installed, draw all locals: seconds each."""

from __future__ import annotations

from typing import Any

import structlog


def draw_no_locals() -> None:
    """For this process, and those that are forked from it: a test's own processes too."""
    structlog.configure(processors=_processors())


def _processors() -> list[Any]:
    *others, _console = structlog.get_config()["processors"]
    return [*others, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
