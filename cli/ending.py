"""Ends a command that fails on the database or the stores with one sentence on stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cli.settings import stop_with

T = TypeVar("T")


def or_stop(work: Callable[[], T]) -> T:
    """What `work` returns, or the end of the command."""
    from cli.terminal.log_lines import log_to_stderr

    log_to_stderr()
    try:
        return work()
    except Exception as error:
        _stop_for(error)
        raise


def _stop_for(error: Exception) -> None:
    """End the command, unless it is a fault of ours. Imports what it compares with when something has failed."""
    from wire.errors import HeadwayError
    from wire.process.exits import GAVE_UP_STATUS, GaveUp

    if isinstance(error, GaveUp):
        stop_with(str(error), GAVE_UP_STATUS)
    if isinstance(error, HeadwayError | OSError | ValueError):
        stop_with(sentence_of(error))

    from store.database import DATABASE_UNUSABLE, unusable_reason

    if isinstance(error, DATABASE_UNUSABLE) and (reason := unusable_reason(error)) is not None:
        stop_with(reason)


def sentence_of(error: Exception) -> str:
    """What it says, without the number that the operating system gives it; of what does not validate, the first
    problem."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        from server.values.validation_messages import first_problem

        return first_problem(error.errors())
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
