"""Turns the error of a full or read-only disk into a refusal."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import structlog

from wire.errors import Unavailable

log = structlog.get_logger(__name__)


@contextmanager
def stored_or_refused(what: str) -> Generator[None]:
    """Raises Unavailable where the block raises OSError. For blocks that store all of `what`, or nothing."""
    try:
        yield
    except OSError as error:
        log.exception("not_stored", what=what)
        reason = error.strerror or type(error).__name__
        raise Unavailable(f"the {what} could not be stored ({reason}); nothing was accepted, send it again") from error
