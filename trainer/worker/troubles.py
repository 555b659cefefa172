"""Maps an exception of an operation to a refusal that its request caused, or to a trouble that passes.

How final each is, `wire.errors` says. Whatever is not named here is a fault of ours.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeAlias

from store.database import DATABASE_AWAY
from store.oplog.operation import Operation
from wire.errors import HeadwayError, OutOfMemory, Unavailable

Diagnosis: TypeAlias = Callable[[Exception], HeadwayError | None]
"""The trouble behind an exception of a device; None for any other."""


def trouble_behind(error: Exception, operation: Operation, device: Diagnosis) -> HeadwayError:
    """The error that stands for it, in words for the caller."""
    if isinstance(error, HeadwayError):
        return error
    if isinstance(error, DATABASE_AWAY):
        return Unavailable(f"the database failed while this {operation.kind} ran ({_first_line(error)})")
    if (found := device(error)) is not None:
        return found
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return OutOfMemory(f"the trainer's machine has no memory left for this {operation.kind}; send a smaller batch")
    if isinstance(error, OSError):
        return Unavailable(f"the trainer cannot use its storage ({error.strerror or error})")
    return HeadwayError(f"the trainer failed on this {operation.kind}; its log has operation {operation.id}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
