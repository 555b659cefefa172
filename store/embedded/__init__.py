"""A real PostgreSQL without an installation, for laptops, demos and tests: used when no database URL is set."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import structlog

from store.embedded.access import EmbeddedPostgresFailed, let_in_with_password_only, new_password, read_password
from store.embedded.postmaster import Postmaster
from store.embedded.programs import SUPERUSER, VERSION_FILE, Programs
from store.embedded.socket_folder import is_private, socket_folder
from store.embedded.users import Users
from store.private_files import open_private

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 0.5
_POLL_S = 0.02
_STOP_S = 60.0
_CONNECTIONS = 200
"""A server takes up to seventy, and a box may have several."""
_PORT = 5432  # of the socket's name; said on both sides, for PGPORT may be set in one shell and not in another


class EmbeddedPostgres:
    """PostgreSQL from a wheel, its files under `folder`, reachable over a Unix socket only, which only its owner can
    open, and with a password only, which is in a file beside the folder.

    Starting it a second time on the same folder finds the running server. It stops with the last process that
    started it. Raises EmbeddedPostgresFailed with PostgreSQL's own words.
    """

    def __init__(self, folder: Path, max_connections: int = _CONNECTIONS) -> None:
        self._folder = folder.resolve()
        self._max_connections = max_connections
        self._postmaster = Postmaster(self._folder)
        self._users = Users(self._folder)
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._programs = Programs.of(self._folder)
            with self._users.turn():
                self._prepare()
                self._ensure_running()
                self._users.join()
        except (OSError, subprocess.SubprocessError) as error:
            raise self._failure(error) from error
        atexit.register(self.stop)
        host = quote(str(self._sockets), safe="/")
        self.url = f"postgresql://{SUPERUSER}:{self._password}@:{_PORT}/postgres?host={host}"

    @property
    def command(self) -> list[str]:
        """What runs the server, as `user`, in the folder."""
        sockets = "." if self._sockets == self._folder else str(self._sockets)
        options = ("unix_socket_permissions=0700", f"max_connections={self._max_connections}")
        spelt = (word for option in options for word in ("-c", option))
        return self._programs.server("-h", "", "-k", sockets, "-p", str(_PORT), *spelt)

    @property
    def user(self) -> str | None:
        """Whom the server runs as, where we are root, as which it refuses to."""
        return self._programs.user

    @contextmanager
    def kept_alive(self) -> Generator[None]:
        """Until the block ends, start the server again whenever somebody killed it."""
        ended = threading.Event()
        thread = threading.Thread(target=self._keep_alive, args=(ended,), name="postgres-keeper", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def stop(self) -> None:
        """Stop the server unless another process still uses it."""
        atexit.unregister(self.stop)
        if not self._folder.exists():
            return  # PostgreSQL ends by itself when its folder is removed
        with self._users.turn():
            if self._users.leave():
                self._shut_down()

    def _prepare(self) -> None:
        """A database that lets nobody in without our password: a new one, or one of an earlier version, which let in
        everybody."""
        if not (self._folder / VERSION_FILE).exists():
            self._programs.initialise(self._folder)
        password = read_password(self._folder)
        if password is None:
            self._postmaster.refuse_users_of_earlier_version()
            self._shut_down()
            password = new_password(self._folder, self._programs)
        self._password = password
        listens_in = self._postmaster.socket_folder()
        if listens_in is None or not is_private(listens_in, self._programs.uid):
            self._shut_down()
            listens_in = socket_folder(self._folder, self._programs.uid)
        self._sockets = listens_in

    def _ensure_running(self) -> None:
        if self._postmaster.pid() is None:
            self._start()

    def _start(self) -> None:
        let_in_with_password_only(self._folder, self._programs)
        with os.fdopen(open_private(self._folder / "log"), "ab") as output:
            begins_at = output.tell()
            process = self._programs.start(self.command, self._folder, output)
        # Whoever looks whether it lives, as the next server on the folder does, must not find a zombie of ours.
        threading.Thread(target=process.wait, name="postgres-reaper", daemon=True).start()
        while not self._postmaster.is_ready(process.pid):
            if process.poll() is not None:
                raise EmbeddedPostgresFailed(self._sentence(self._said_since(begins_at)))
            time.sleep(_POLL_S)

    def _shut_down(self) -> None:
        """Clients are cut off (fast shutdown); SIGQUIT where that does not end it, and the next start recovers."""
        for signum in (signal.SIGINT, signal.SIGQUIT):
            pid = self._postmaster.pid()
            if pid is None:
                return
            os.kill(pid, signum)
            deadline = time.monotonic() + _STOP_S
            while self._postmaster.pid() == pid and time.monotonic() < deadline:
                time.sleep(_POLL_S)

    def _keep_alive(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_EVERY_S):
            if self._postmaster.pid() is not None:
                continue
            log.warning("postgres_died", folder=str(self._folder))
            try:
                with self._users.turn():
                    self._ensure_running()
            except (OSError, EmbeddedPostgresFailed) as error:  # its last children may be ending: the next look tries
                log.warning("postgres_did_not_start", error=str(error).partition("\n")[0])

    def _said_since(self, begins_at: int) -> str:
        with (self._folder / "log").open("rb") as output:
            output.seek(begins_at)
            return output.read().decode(errors="replace")

    def _failure(self, error: Exception) -> EmbeddedPostgresFailed:
        said = getattr(error, "stderr", None) or str(error)
        return EmbeddedPostgresFailed(self._sentence(said))

    def _sentence(self, said: str) -> str:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        severe = [line for line in lines if any(word in line for word in ("FATAL", "PANIC", "error:"))]
        return f"the embedded PostgreSQL did not start in {self._folder}: {' '.join((severe or lines)[-2:])}"


__all__ = ["EmbeddedPostgres", "EmbeddedPostgresFailed"]
