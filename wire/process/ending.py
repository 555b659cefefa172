"""Ends a process whose work is done, whatever threads and exit functions it still has.

An interpreter that ends by itself joins every thread that is no daemon, then stops daemons wherever they are, perhaps
inside an allocator's or a library's lock, which a destructor of C++ may want afterwards: it hangs, or aborts. A process
that a supervisor watches would be killed when its grace is over, though it had handed everything back.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

EXIT_FUNCTIONS_S = 5.0
"""For all exit functions and the last of what is printed: spans that wait to be sent, folders that go."""


def end_process(status: int, within_s: float = EXIT_FUNCTIONS_S) -> NoReturn:
    """With this exit status, once its exit functions have run and what it printed is written, or after that time. No
    thread is waited for. From any thread."""
    cut_short = threading.Timer(within_s, os._exit, (status,))
    cut_short.daemon = True
    cut_short.start()
    try:
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it was closed from the start
            with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
                stream.flush()
    finally:
        os._exit(status)


def status_of(work: Callable[[], object]) -> int:
    """The exit status with which an interpreter ends after this work, once what an exception has to say is on
    stderr."""
    try:
        work()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0
