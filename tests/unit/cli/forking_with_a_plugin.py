"""The fork server with a plugin in each of its forks: a thread that never ends, and a function for the exit."""

import atexit
import sys
import threading

import cli.start
from cli.box.forking import main

_start = cli.start.start


def _start_with_a_plugin() -> None:
    threading.Thread(target=threading.Event().wait, name="of a plugin").start()
    atexit.register(lambda: sys.stdout.write("the exit functions ran\n"))
    _start()


if __name__ == "__main__":
    cli.start.start = _start_with_a_plugin
    main()
