"""Locks on files and folders among the processes of a machine, which end with the process that holds them (flock)."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def lock(path: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """Lock what stands at `path`: a descriptor, which holds the lock until it is closed.

    None when nothing stands there any more, or, without `wait`, when somebody else has locked it. A folder that is
    renamed takes its lock along. Two locks of one process exclude each other as those of two processes do.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
