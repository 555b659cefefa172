"""How a rank ends: with its reason in the log and as its last words, and at once: a thread of gloo that lets go of its
last tensor while the interpreter is torn down aborts, which reads as a rank that was killed."""

from __future__ import annotations

from typing import NoReturn

import structlog

from trainer.distributed.last_words import leave_last_words
from wire.errors import HeadwayError
from wire.process.ending import end_process

log = structlog.get_logger(__name__)


def end_rank(error: Exception | None = None) -> NoReturn:
    """Of this error, if any. From any thread: the main one may wait in a collective for good."""
    if error is not None:
        is_bug = not isinstance(error, (HeadwayError, OSError, ValueError))
        log.error("rank_failed", reason=str(error), exc_info=error if is_bug else None)
        leave_last_words(error)
    end_process(0 if error is None else 1)


def end_with_the_other_hosts() -> NoReturn:
    """After SIGTERM to any of several hosts. With status 1: after 0, the torchrun of a host that got no signal would
    wait for five minutes for those that have left already, before it ends and can be started anew."""
    leave_last_words(RuntimeError("this trainer was told to stop, on this host or another; it handed its models back"))
    end_process(1)
