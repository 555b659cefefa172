"""Children that do not outlive the command that started them, even when it is killed.

The parent holds the write end of each child's stdin. When it dies, however it dies, the pipe closes.
"""

from __future__ import annotations

import os
import signal
import threading

_STDIN = 0
VARIABLE = "HEADWAY_LIFELINE"


def follow_parent() -> None:
    """If the parent asked for it (`HEADWAY_LIFELINE=1`), send this process SIGTERM once stdin closes."""
    if os.environ.get(VARIABLE) == "1":
        threading.Thread(target=_wait_for_end, name="lifeline", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(_STDIN, 1):  # not sys.stdin: a thread inside its lock breaks the interpreter's shutdown
        pass
    os.kill(os.getpid(), signal.SIGTERM)
