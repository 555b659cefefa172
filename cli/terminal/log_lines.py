"""Where a command's log lines go."""

from __future__ import annotations

import sys

import structlog


def log_to_stderr() -> None:
    """Apart from what the command prints, which may be JSON. Planes set their logs up themselves."""
    if not structlog.is_configured():
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
