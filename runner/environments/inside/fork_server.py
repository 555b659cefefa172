"""A process that has imported the SDK once, and forks a process for each session: importing it takes 1.5 s and 115 MB.

The session's code is imported by the fork, so that sessions share no module of the environment.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback

from runner.environments.inside import messages
from runner.environments.inside.session import run_session
from runner.environments.isolation import ISOLATIONS
from runner.environments.isolation.base import Isolation, SessionPlace

# The modules that `python -m hud.environment.server` loads.
_MODULES = ("hud.environment.server", "hud.environment", "hud.eval.taskset", "hud.settings")


def main() -> None:
    """Serves until its standard input, a socket, ends. Its argument: the isolation."""
    control = socket.socket(fileno=os.dup(0))
    _read_nothing()
    started = time.monotonic()
    trouble = _import_sdk()
    if trouble is not None:
        messages.send(control, {"unusable": trouble})
        sys.exit(1)
    gc.collect()
    gc.freeze()  # a collection in a fork would write to every page of these objects
    messages.send(control, {"ready": True, "import_s": time.monotonic() - started})
    _serve(control, ISOLATIONS[sys.argv[1]])


def _read_nothing() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _import_sdk() -> str | None:
    """Why this SDK cannot serve; None: it can."""
    try:
        for name in _MODULES:
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == "hud":
            return (
                "its hud package has no hud.environment.server: environments that speak MCP alone cannot be played; "
                "port it to hud 0.6"
            )
        return f"hud cannot be imported: {error}"
    except Exception as error:
        traceback.print_exc()
        return f"hud cannot be imported: {type(error).__name__}: {error}"
    return None


def _serve(control: socket.socket, isolation: Isolation) -> None:
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    while True:
        readable, _, _ = select.select([control, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            _reap()
        if control in readable:
            received = messages.receive(control)
            if received is None:
                sys.exit(0)
            if os.fork() == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                _run(isolation, SessionPlace.from_json(received.fields), received.descriptors)
            messages.close_all(received.descriptors)


def _run(isolation: Isolation, place: SessionPlace, descriptors: list[int]) -> None:
    end, out, err = descriptors
    try:
        run_session(isolation, place, socket.socket(fileno=end), out, err)
    except BaseException:
        os.write(err, traceback.format_exc().encode())
    os._exit(1)


def _reap() -> None:
    """Also children of others that have ended before them."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
