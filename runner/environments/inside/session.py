"""One session: a parent of all its processes, and the one that serves the user's environment."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import sys
import tempfile
import traceback
from contextlib import suppress
from typing import Any

from runner.environments.inside import messages
from runner.environments.isolation.base import Isolation, SessionPlace

_CONNECT_S = 2.0
_HOST = "127.0.0.1"


def run_session(isolation: Isolation, place: SessionPlace, end: socket.socket, out: int, err: int) -> None:
    """Called in a fork of its own; does not return. Over `end` the runner is sent the listener of the gateway, as soon
    as it is there; says `go`; then asks for connections to the environment's ports, or to stop; its end of it ends the
    session."""
    isolation.enter_session(place)
    port = place.port
    if place.network == "none" and isolation.has_own_network:
        with socket.create_server((_HOST, port)) as listener:
            messages.send(end, {"entered": os.getpid()}, [listener.fileno()])
    else:
        messages.send(end, {"entered": os.getpid()})
    if messages.receive(end) is None:
        os._exit(1)
    child = os.fork()
    if child == 0:
        end.close()
        _run_environment(isolation, place, out, err)
    os.close(out)
    os.close(err)
    _Parent(end, child).attend()
    isolation.end_session()
    os._exit(0)


class _Parent:
    """Of all processes of a session: those whose parent has ended become its children."""

    def __init__(self, end: socket.socket, child: int) -> None:
        self._end, self._child = end, child
        self._woken, wakes = os.pipe()
        os.set_blocking(wakes, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)

    def attend(self) -> None:
        """Returns when the environment has ended, or the runner wants no more of it."""
        if self._reap():
            return
        while True:
            readable, _, _ = select.select([self._end, self._woken], [], [])
            if self._woken in readable:
                os.read(self._woken, 4096)
                if self._reap():
                    return
            if self._end in readable:
                received = messages.receive(self._end)
                if received is None:
                    return
                self._answer(received.fields)

    def _reap(self) -> bool:
        """Whether the environment has ended; the runner is sent its status."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == self._child:
                with suppress(OSError):
                    messages.send(self._end, {"exited": os.waitstatus_to_exitcode(status)})
                return True
            if pid == 0:
                return False

    def _answer(self, asked: dict[str, Any]) -> None:
        if "stop" in asked:
            os.kill(self._child, signal.SIGTERM)
        elif "connect" in asked:
            try:
                with socket.create_connection((_HOST, asked["connect"]), _CONNECT_S) as connection:
                    messages.send(self._end, {"connection": asked["id"]}, [connection.fileno()])
            except OSError as error:
                messages.send(self._end, {"connection": asked["id"], "error": str(error)})


def _run_environment(isolation: Isolation, place: SessionPlace, out: int, err: int) -> None:
    """Does not return. The last that an environment that fails writes to stderr is its exception."""
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, 65536)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 1
    try:
        os.environ.update(place.variables)
        os.chdir(place.target if os.path.isdir(place.target) else os.path.dirname(place.target))
        isolation.confine(place, [place.port])
        _forget_ours(place)
        _seed_again()
        _use_own_folders()
        _point_sdk_at_gateway()
        status = _serve(place)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve(place: SessionPlace) -> int:
    server = sys.modules["hud.environment.server"]
    sys.argv = ["hud.environment.server", place.target, "--env", place.name]
    try:
        server.main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _forget_ours(place: SessionPlace) -> None:
    """Our packages have names that users' modules may have, too."""
    if place.keeps_ours:
        return
    for name in [name for name in sys.modules if name.split(".")[0] == "runner"]:
        del sys.modules[name]
    sys.path[:] = [entry for entry in sys.path if entry != place.ours]


def _use_own_folders() -> None:
    """Where it is to write, whatever was found before the fork."""
    tempfile.tempdir = None


def _seed_again() -> None:
    """Generators that were seeded before the fork would give every session the same numbers."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _point_sdk_at_gateway() -> None:
    """Its settings were read before the fork."""
    settings = getattr(sys.modules.get("hud.settings"), "settings", None)
    for name in ("hud_gateway_url", "hud_api_url"):
        if settings is not None and hasattr(settings, name) and name.upper() in os.environ:
            setattr(settings, name, os.environ[name.upper()])
