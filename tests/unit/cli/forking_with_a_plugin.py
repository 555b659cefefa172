"""The fork server with a plugin in forks that are to have one: a thread that never ends, and a function for the exit
that writes to a buffer."""

import atexit
import os
import sys
import threading

import cli.start
from cli.box.forking import main

VARIABLE = "HEADWAY_TEST_PLUGIN"
_start = cli.start.start


def _start_with_a_plugin() -> None:
    if VARIABLE in os.environ:
        threading.Thread(target=threading.Event().wait, name="of a plugin").start()
        sys.stdout = os.fdopen(1, "w", closefd=False)
        atexit.register(lambda: sys.stdout.write("the exit functions ran\n"))
    _start()


if __name__ == "__main__":
    cli.start.start = _start_with_a_plugin
    main()
