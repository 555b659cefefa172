"""Ends a command that fails on the stores with one sentence on stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cli.settings import stop_with

T = TypeVar("T")


def or_stop(work: Callable[[], T]) -> T:
    """What `work` returns, or the end of the command."""
    from pydantic import ValidationError

    from server.values.validation_messages import first_problem
    from store.database import DATABASE_AWAY
    from wire.errors import HeadwayError

    try:
        return work()
    except DATABASE_AWAY as error:
        stop_with(f"the database does not answer: {str(getattr(error, 'orig', error)).partition(chr(10))[0]}")
    except ValidationError as error:
        stop_with(first_problem(error.errors()))
    except (HeadwayError, OSError, ValueError) as error:
        stop_with(sentence_of(error))


def sentence_of(error: Exception) -> str:
    """What it says, without the number that the operating system gives it."""
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
