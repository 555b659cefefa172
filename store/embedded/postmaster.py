"""Whether a server runs on a folder, by the file that PostgreSQL keeps there while it does."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from store.embedded.access import EmbeddedPostgresFailed

_SOCKET_LINE, _STATUS_LINE = 4, 7
_HANDLES = ".handle_pids.json"


class Postmaster:
    """PostgreSQL's first process on a folder, whoever started it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pid(self) -> int | None:
        """Of the running server; None where none runs. A file that a killed one left may name another's process."""
        lines = self._lines()
        if not lines or not lines[0].strip().isdigit():
            return None
        pid = int(lines[0])
        try:
            process = psutil.Process(pid)
            lives = process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            return pid if lives and process.name().startswith("postgres") and self._is_here(process) else None
        except psutil.NoSuchProcess:
            return None

    def is_ready(self, pid: int) -> bool:
        """Whether the server with this pid takes connections."""
        lines = self._lines()
        return len(lines) > _STATUS_LINE and lines[0].strip() == str(pid) and lines[_STATUS_LINE].strip() == "ready"

    def socket_folder(self) -> Path | None:
        """Where the running server listens; None where none runs, or where its socket was swept away."""
        lines = self._lines()
        if self.pid() is None or len(lines) <= _SOCKET_LINE:
            return None
        folder = self._folder / lines[_SOCKET_LINE].strip()  # which is relative to it, or absolute
        return folder if any(folder.glob(".s.PGSQL.*")) else None

    def refuse_users_of_earlier_version(self) -> None:
        """Raises EmbeddedPostgresFailed while processes of an earlier version use the server, which is about to be
        stopped for its new password: those processes would not find it again."""
        if self.pid() is None:
            return
        try:
            pids: list[int] = json.loads((self._folder / _HANDLES).read_text() or "[]")
        except (OSError, ValueError):
            return
        if users := [pid for pid in pids if psutil.pid_exists(pid)]:
            named = ", ".join(map(str, users))
            raise EmbeddedPostgresFailed(
                f"an earlier version of Headway uses the database in {self._folder} (pid {named}): stop that first"
            )

    def _lines(self) -> list[str]:
        try:
            return (self._folder / "postmaster.pid").read_text(errors="replace").splitlines()
        except OSError:
            return []

    def _is_here(self, process: psutil.Process) -> bool:
        """PostgreSQL works in its data folder."""
        try:
            return Path(process.cwd()).samefile(self._folder)
        except (psutil.AccessDenied, OSError):
            return True
