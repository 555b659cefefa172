"""Children that do not outlive the command that started them, even when it is killed.

The parent holds the write end of each child's stdin. When it dies, however it dies, the pipe closes. Where the parent
is not ours, and gives us its own stdin, the kernel says when it has died.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

_STDIN = 0
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
VARIABLE = "HEADWAY_LIFELINE"


def follow_parent() -> None:
    """If the parent asked for it (`HEADWAY_LIFELINE=1`), send this process SIGTERM once stdin closes."""
    if os.environ.get(VARIABLE) == "1":
        threading.Thread(target=_wait_for_end, name="lifeline", daemon=True).start()


def end_with_parent(parent: int, signum: signal.Signals) -> None:
    """Have the kernel send this process the signal once `parent`, which started it, has died. On Linux alone."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it has died already
        os.kill(os.getpid(), signum)


def _wait_for_end() -> None:
    while os.read(_STDIN, 1):  # not sys.stdin: a thread inside its lock breaks the interpreter's shutdown
        pass
    os.kill(os.getpid(), signal.SIGTERM)
